"""Checkpoints of audiocraft: as transformers' with the same weights, else refused in a sentence."""

import re
import shutil
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lm_audio.families.audiocraft.original_layout import holds_audiocraft, read_audiocraft
from lm_audio.families.audiocraft.parts import MusicGenParts
from lm_audio.families.audiocraft.transformers_layout import read_musicgen
from lm_audio.patterns import delayed, stereo


def assert_equal(ours: MusicGenParts, theirs: MusicGenParts) -> None:
    """The same settings, and the same weights to the bit."""
    assert ours.model.config == theirs.model.config
    assert ours.pattern == theirs.pattern
    assert ours.num_channels == theirs.num_channels
    assert ours.max_frames == theirs.max_frames
    assert ours.sampling == theirs.sampling
    assert ours.codec.identity == theirs.codec.identity
    for module, other in ((ours.model, theirs.model), (ours.text, theirs.text)):
        state, expected = module.state_dict(), other.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("kind", ["", "stereo_"])
def test_both_layouts_load_to_the_same_model(kind: str, request: pytest.FixtureRequest) -> None:
    ours = read_audiocraft(request.getfixturevalue(f"{kind}audiocraft_folder"))
    theirs = read_musicgen(request.getfixturevalue(f"{kind}musicgen_folder"))
    assert_equal(ours, theirs)
    text = ["a dog"]
    assert torch.equal(
        ours.conditioners({"text": text}).cross.embeddings,
        theirs.conditioners({"text": text}).cross.embeddings,
    )


@pytest.mark.parametrize("config", [{"hidden_size": 48, "ffn_dim": 72}, {"num_codebooks": 3}])
def test_the_settings_decide_the_shape(
    config: dict[str, Any],
    make_musicgen: Callable[..., Any],
    save_musicgen: Callable[..., Path],
    save_audiocraft: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = make_musicgen(**config)
    ours = read_audiocraft(save_audiocraft(model, tmp_path / "a"))
    assert_equal(ours, read_musicgen(save_musicgen(model, tmp_path / "b")))


def test_what_the_settings_say_of_use_is_kept(
    edited: Callable[..., Path],
) -> None:
    parts = read_audiocraft(edited("inference_coef: 3.0", "inference_coef: 1.5"))
    assert parts.sampling.guidance_scale == 1.5
    parts = read_audiocraft(edited("segment_duration: 30", "segment_duration: 10"))
    assert parts.max_frames == 500
    assert parts.sample_rate == 32_000
    assert parts.frame_rate == 50
    assert parts.t5_name == "t5-base"
    parts = read_audiocraft(edited("delays: [0, 1, 2, 3]", "delays: [0, 2, 2, 5]"))
    assert parts.pattern == delayed([0, 2, 2, 5])
    parts = read_audiocraft(edited("modeling: delay", "modeling: parallel"))
    assert parts.pattern == delayed([0, 0, 0, 0])


def test_stereo_has_the_codebooks_of_both_channels_in_turn(stereo_audiocraft_folder: Path) -> None:
    parts = read_audiocraft(stereo_audiocraft_folder)
    assert parts.num_channels == 2
    assert parts.pattern == stereo(delayed([0, 1, 2, 3]))


def test_files_are_told_by_their_keys(
    make_musicgen: Callable[..., Any], save_audiocraft: Callable[..., Path], tmp_path: Path
) -> None:
    save_audiocraft(make_musicgen(), tmp_path, names=("b.bin", "a.pt"))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "voices.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "nothing")
    assert holds_audiocraft(tmp_path)
    assert read_audiocraft(tmp_path).model.config.num_streams == 4


def test_other_folders_hold_no_audiocraft(musicgen_folder: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(1)}, tmp_path / "state_dict.bin")
    (tmp_path / "broken.bin").write_bytes(b"PK\x03\x04broken")
    assert not holds_audiocraft(tmp_path)
    assert not holds_audiocraft(musicgen_folder)
    assert not holds_audiocraft(tmp_path / "none")


@pytest.mark.parametrize("nesting", ["best_state", "fsdp_best_state"])
def test_training_checkpoints_are_read(
    nesting: str,
    audiocraft_folder: Path,
    tmp_path: Path,
    as_omegaconf: Callable[[Any], Any],
) -> None:
    package = torch.load(audiocraft_folder / "state_dict.bin")
    settings = yaml.safe_load(package["xp.cfg"])
    settings["dataset"]["batch_size"] = "???"
    trained = {
        "xp.cfg": as_omegaconf(settings), "xp.sig": "0123abcd",
        "best_state": {}, nesting: {"model": package["best_state"]},
        "history": [{"train": {"ce": 3.5}}], "optimizer": {"step": torch.ones(1)},
    }  # fmt: skip
    torch.save(trained, tmp_path / "checkpoint.th")
    shutil.copy(audiocraft_folder / "compression_state_dict.bin", tmp_path)
    t5 = audiocraft_folder / "t5"
    assert holds_audiocraft(tmp_path)
    assert_equal(read_audiocraft(tmp_path, text_encoder=t5), read_audiocraft(audiocraft_folder))


def test_weights_of_torchs_attention_modules_are_read(
    audiocraft_folder: Path, edited: Callable[..., Path]
) -> None:
    folder = edited("memory_efficient: true", "memory_efficient: false")
    package = torch.load(folder / "state_dict.bin")
    package["best_state"] = {
        re.sub(r"(self_attn|cross_attention)\.", r"\1.mha.", name): x
        for name, x in package["best_state"].items()
    }
    assert "transformer.layers.0.self_attn.mha.in_proj_weight" in package["best_state"]
    torch.save(package, folder / "state_dict.bin")
    assert_equal(read_audiocraft(folder), read_audiocraft(audiocraft_folder))


def test_the_codec_can_be_given(audiocraft_folder: Path, tmp_path: Path) -> None:
    shutil.copy(audiocraft_folder / "state_dict.bin", tmp_path)
    parts = read_audiocraft(
        tmp_path,
        text_encoder=audiocraft_folder / "t5",
        codec=audiocraft_folder / "compression_state_dict.bin",
    )
    assert_equal(parts, read_audiocraft(audiocraft_folder))


def test_half_precision_becomes_what_is_asked_for(
    audiocraft_folder: Path, edited: Callable[..., Path]
) -> None:
    folder = edited("", "")
    package = torch.load(folder / "state_dict.bin")
    package["best_state"] = {k: x.half() for k, x in package["best_state"].items()}
    torch.save(package, folder / "state_dict.bin")
    whole, half = read_audiocraft(folder), read_audiocraft(folder, dtype=torch.float16)
    expected = read_audiocraft(audiocraft_folder).model.embedding.weight.half()
    assert torch.equal(whole.model.embedding.weight, expected.float())
    assert torch.equal(half.model.embedding.weight, expected)
    assert half.text.projection.weight.dtype == torch.float16


def test_a_model_does_not_change_with_its_file(edited: Callable[..., Path]) -> None:
    folder = edited("", "")
    parts = read_audiocraft(folder)
    before = parts.model.transformer.norm.weight.clone()
    file = folder / "state_dict.bin"
    with file.open("r+b") as opened:
        opened.write(b"\0" * file.stat().st_size)
    assert torch.equal(parts.model.transformer.norm.weight, before)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("norm_first: true", "norm_first: false", "transformer_lm.norm_first=False"),
        ("layer_scale: null", "layer_scale: 0.1", "transformer_lm.layer_scale=0.1"),
        ("xpos: false", "xpos: true", "transformer_lm.xpos=True"),
        ("embedding: sin", "embedding: rope", "transformer_lm.positional_embedding=rope"),
        ("kv_repeat: 1", "kv_repeat: 2", "transformer_lm.kv_repeat=2"),
        ("qk_layer_norm: false", "qk_layer_norm: true", "transformer_lm.qk_layer_norm=True"),
        ("past_context: null", "past_context: 100", "transformer_lm.past_context=100"),
        ("bias_proj: false", "bias_proj: true", "transformer_lm.bias_proj=True"),
        ("bias_ff: false", "bias_ff: true", "transformer_lm.bias_ff=True"),
        ("activation: gelu", "activation: relu", "transformer_lm.activation=relu"),
        ("two_step_cfg: false", "mystery: 1", "transformer_lm.mystery=1"),
        ("prepend: []", "prepend: [description]", "fuser.prepend="),
        ("cross:\n  - description", "cross: []", "fuser.cross="),
        ("pos_emb: false", "pos_emb: true", "fuser.cross_attention_pos_emb=True"),
        ("finetune: false", "finetune: true", "conditioners.description.t5.finetune=True"),
        ("per_timestep: false", "per_timestep: true", "stereo_codebooks.per_timestep=True"),
        ("modeling: delay", "modeling: unroll", "codebooks_pattern.modeling=unroll"),
        ("delays: [0, 1, 2, 3]", "delays: [0, 1, 2]", "codebooks_pattern.delay.delays="),
        ("lm_model: transformer_lm", "lm_model: flow", "lm_model=flow"),
        ("conditioners:", "conditioners:\n  self_wav:\n    model: x", "conditioners=self_wav"),
    ],
)
def test_what_our_model_cannot_express_is_refused_by_name(
    old: str, new: str, said: str, edited: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=f"Unsupported setting .*{said}.* in .* Expected"):
        read_audiocraft(edited(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  segment_duration: 30", "  other: 1", "dataset.segment_duration is missing"),
        ("n_q: 4", "n_q: ${transformer_lm.n_q}", "transformer_lm.n_q is missing"),
        ("solver: musicgen", "solver: [", "contains no settings"),
        ("  dim: 32", "  dim: wide", "transformer_lm.dim=wide in .* Expected a number"),
        ("delays: [0, 1, 2, 3]", "delays: 4", "codebooks_pattern.delay.delays=4 in"),
        ("card: 64", "card: 65", "weight shapes that do not match its xp.cfg: emb.0.weight"),
        ("num_layers: 2", "num_layers: 3", "missing or unexpected weights: transformer.layers.2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    old: str, new: str, message: str, edited: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        read_audiocraft(edited(old, new))


def test_weights_that_are_missing_or_too_many_are_listed(edited: Callable[..., Path]) -> None:
    folder = edited("", "")
    package = torch.load(folder / "state_dict.bin")
    del package["best_state"]["out_norm.weight"]
    package["best_state"]["extra"] = torch.ones(1)
    torch.save(package, folder / "state_dict.bin")
    with pytest.raises(ValueError, match=r"missing or unexpected weights: extra, out_norm.weight"):
        read_audiocraft(folder)


def test_a_folder_without_a_model_is_refused(audiocraft_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Folder .* not found. Give the folder"):
        read_audiocraft(tmp_path / "none")
    shutil.copy(audiocraft_folder / "compression_state_dict.bin", tmp_path)
    with pytest.raises(ValueError, match=r"0 audiocraft language models \(none\)\. Expected"):
        read_audiocraft(tmp_path)
    for name in ("a.bin", "b.bin"):
        shutil.copy(audiocraft_folder / "state_dict.bin", tmp_path / name)
    with pytest.raises(ValueError, match=r"2 audiocraft language models .a.bin, b.bin"):
        read_audiocraft(tmp_path)


def test_the_wrong_codec_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited("", "")
    shutil.copy(folder / "compression_state_dict.bin", folder / "second.bin")
    with pytest.raises(ValueError, match=r"2 codecs .compression_state_dict.bin, second.bin"):
        read_audiocraft(folder)


def test_without_a_codec_the_settings_must_name_one(edited: Callable[..., Path]) -> None:
    folder = edited(
        "compression_model_checkpoint: //pretrained/", "compression_model_checkpoint: /"
    )
    (folder / "compression_state_dict.bin").unlink()
    with pytest.raises(ValueError, match=r"has no codec\. Put its file there, or pass codec="):
        read_audiocraft(folder)


def test_a_truncated_file_is_refused_in_a_sentence(edited: Callable[..., Path]) -> None:
    folder = edited("", "")
    file = folder / "state_dict.bin"
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"Could not read .*state_dict.bin: not a complete"):
        read_audiocraft(folder)


def test_a_pickle_that_would_run_code_is_refused(
    edited: Callable[..., Path], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    folder = edited("", "")
    package = torch.load(folder / "state_dict.bin")
    torch.save({**package, "bomb": Bomb()}, folder / "state_dict.bin")
    with pytest.raises(ValueError, match=r"Refused to read .*state_dict.bin: .* could run code"):
        read_audiocraft(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def edited(audiocraft_folder: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Copies the checkpoint, with `new` for `old` in its settings."""

    def write(old: str, new: str) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(audiocraft_folder, folder, dirs_exist_ok=True)
        package = torch.load(folder / "state_dict.bin")
        assert old in package["xp.cfg"]
        package["xp.cfg"] = package["xp.cfg"].replace(old, new)
        torch.save(package, folder / "state_dict.bin")
        return folder

    return write


@pytest.fixture
def as_omegaconf(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Makes of plain settings the objects that OmegaConf would pickle, by its names and fields."""
    names = {
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.listconfig": "ListConfig",
        "omegaconf.nodes": "AnyNode",
        "omegaconf.base": "ContainerMetadata",
    }
    kinds = {name: type(name, (), {"__module__": module}) for module, name in names.items()}
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for module, name in names.items():
        made = types.ModuleType(module)
        setattr(made, name, kinds[name])
        monkeypatch.setitem(sys.modules, module, made)

    def make(value: Any, parent: Any = None) -> Any:
        is_node = not isinstance(value, dict | list)
        node = kinds["AnyNode" if is_node else f"{type(value).__name__.capitalize()}Config"]()
        metadata = kinds["ContainerMetadata"]()
        vars(metadata).update(ref_type=Any, object_type=dict, flags={"struct": True})
        vars(node).update(_metadata=metadata, _parent=parent)
        if isinstance(value, dict):
            node._content = {key: make(item, node) for key, item in value.items()}
        elif isinstance(value, list):
            node._content = [make(item, node) for item in value]
        else:
            node._val = value
        return node

    return make
