"""Exported models are as before, to the bit, when read again, and transformers runs them."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoProcessor, MusicgenForConditionalGeneration

from lm_audio.conditioners.text import T5Encoder, TextConditioner
from lm_audio.families.audiocraft.export import write_audiocraft, write_musicgen
from lm_audio.families.audiocraft.original_layout import read_audiocraft
from lm_audio.families.audiocraft.parts import MusicGenParts
from lm_audio.families.audiocraft.transformers_layout import read_musicgen
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import delayed, unrolled
from lm_audio.sampling import Sampling


@pytest.mark.parametrize("kind", ["", "stereo_"])
def test_audiocraft_to_transformers_and_back_changes_no_bit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    first = read_audiocraft(request.getfixturevalue(f"{kind}audiocraft_folder"))
    write_musicgen(first, tmp_path / "transformers")
    second = read_musicgen(tmp_path / "transformers")
    assert_equal(second, first)
    assert second.t5_name == "t5-base"


@pytest.mark.parametrize("num_channels", [1, 2])
def test_ours_to_audiocraft_and_back_changes_no_bit(
    num_channels: int,
    make_musicgen: Callable[..., Any],
    save_musicgen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = make_musicgen(num_channels, text_width=512, ffn_dim=74)
    parts = read_musicgen(save_musicgen(model, tmp_path / "theirs"))
    first = dataclasses.replace(
        parts, t5_name="t5-small", sampling=Sampling(guidance_scale=2.5), max_frames=525
    )
    write_audiocraft(first, tmp_path / "audiocraft")
    first.text.encoder.save(tmp_path / "t5")  # type: ignore[attr-defined]
    second = read_audiocraft(tmp_path / "audiocraft", text_encoder=tmp_path / "t5")
    assert_equal(second, first)
    write_audiocraft(second, tmp_path / "again")
    third = read_audiocraft(tmp_path / "again", text_encoder=tmp_path / "t5")
    assert_equal(third, first)


def test_transformers_computes_the_same_from_what_was_exported(
    exportable: MusicGenParts, tmp_path: Path
) -> None:
    write_musicgen(exportable, tmp_path / "out")
    theirs, info = MusicgenForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.generation_config.guidance_scale == 3.0
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(text=["a dog barks"], return_tensors="pt")
    tokens = torch.randint(0, 65, (1, 4, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(**inputs, decoder_input_ids=tokens[0]).logits
        fused = exportable.conditioners({"text": ["a dog barks"]})
        ours = exportable.model(tokens, fused=fused)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    codes = tokens.clamp(max=63)
    with torch.inference_mode():
        sound = theirs.audio_encoder.decode(codes[None], [None]).audio_values
    torch.testing.assert_close(exportable.codec.decode(codes), sound, rtol=0, atol=1e-6)


def test_a_model_of_our_own_is_exported(exportable: MusicGenParts, tmp_path: Path) -> None:
    config = dataclasses.replace(exportable.model.config.transformer, dim=64, num_layers=1)
    model = TokenLM(dataclasses.replace(exportable.model.config, transformer=config)).eval()
    text = TextConditioner(exportable.text.encoder, 64)
    ours = dataclasses.replace(exportable, model=model, text=text)
    write_musicgen(ours, tmp_path / "out")
    assert_equal(read_musicgen(tmp_path / "out"), ours)


def test_a_model_as_wide_as_its_t5_is_exported_with_an_identity(
    make_musicgen: Callable[..., Any], save_musicgen: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_musicgen(text_width=512, hidden_size=512, num_hidden_layers=1)
    parts = read_musicgen(save_musicgen(model, tmp_path / "theirs"))
    assert isinstance(parts.text.projection, torch.nn.Identity)
    write_audiocraft(dataclasses.replace(parts, t5_name="t5-small"), tmp_path / "out")
    parts.text.encoder.save(tmp_path / "t5")  # type: ignore[attr-defined]
    again = read_audiocraft(tmp_path / "out", text_encoder=tmp_path / "t5")
    texts = ["a dog", None]
    ours, theirs = (x.conditioners({"text": texts}).cross for x in (again, parts))
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours.embeddings, theirs.embeddings, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="its projection of texts as wide as the model is True"):
        write_musicgen(again, tmp_path / "never")


def test_weights_of_nothing_survive_weight_normalisation(
    exportable: MusicGenParts, tmp_path: Path
) -> None:
    codec: Any = copy.deepcopy(exportable.codec)
    codec.model.encoder.layers[0].conv.weight[0] = 0.0
    exported = dataclasses.replace(exportable, codec=codec)
    write_musicgen(exported, tmp_path / "out")
    assert read_musicgen(tmp_path / "out").codec.identity == codec.identity


def test_the_files_of_audiocraft_are_stamped_and_their_settings_are_text(
    wide: MusicGenParts, tmp_path: Path
) -> None:
    write_audiocraft(wide, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["compression_state_dict.bin", "state_dict.bin"]
    for name in files:
        package = torch.load(tmp_path / "out" / name, weights_only=True)
        assert package.keys() == {"best_state", "xp.cfg", "version", "exported"}
        assert package["exported"] is True
        assert isinstance(yaml.safe_load(package["xp.cfg"]), dict)


def test_default_sampling_stays_with_the_weights(exportable: MusicGenParts, tmp_path: Path) -> None:
    sampling = Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.1, guidance_scale=2.0)
    write_musicgen(dataclasses.replace(exportable, sampling=sampling), tmp_path / "sampled")
    assert read_musicgen(tmp_path / "sampled").sampling == sampling
    greedy = Sampling(temperature=0.0)
    write_musicgen(dataclasses.replace(exportable, sampling=greedy), tmp_path / "greedy")
    assert read_musicgen(tmp_path / "greedy").sampling == greedy


def test_the_licence_stays_with_the_weights(wide: MusicGenParts, tmp_path: Path) -> None:
    licensed = dataclasses.replace(wide, licence="cc-by-nc-4.0")
    write_musicgen(licensed, tmp_path / "transformers")
    assert read_musicgen(tmp_path / "transformers").licence == "cc-by-nc-4.0"
    write_audiocraft(licensed, tmp_path / "audiocraft")
    wide.text.encoder.save(tmp_path / "t5")  # type: ignore[attr-defined]
    parts = read_audiocraft(tmp_path / "audiocraft", text_encoder=tmp_path / "t5")
    assert parts.licence == "cc-by-nc-4.0"


@pytest.mark.parametrize("write", [write_musicgen, write_audiocraft])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positions": "rotary"}, "its positions is rotary, expected sinusoidal"),
        ({"norm": "rms"}, "its norm is rms, expected layer"),
        ({"activation": "swiglu"}, "its activation is swiglu"),
        ({"window": 10}, "its window is 10, expected None"),
        ({"norm_eps": 1e-6}, "its norm_eps is 1e-06"),
        ({"cross_attention": False}, "its cross_attention is False"),
    ],
)
def test_other_shapes_are_refused(
    write: Callable[..., None],
    change: dict[str, Any],
    said: str,
    exportable: MusicGenParts,
    tmp_path: Path,
) -> None:
    transformer = dataclasses.replace(exportable.model.config.transformer, **change)
    config = dataclasses.replace(exportable.model.config, transformer=transformer)
    with torch.device("meta"):
        model = TokenLM(config)
    with pytest.raises(ValueError, match=f"does not support this model: {said}"):
        write(dataclasses.replace(exportable, model=model), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_other_parts_are_refused(exportable: MusicGenParts, tmp_path: Path) -> None:
    def refused(said: str, write: Callable[..., None] = write_musicgen, **change: Any) -> None:
        with pytest.raises(ValueError, match=said):
            write(dataclasses.replace(exportable, **change), tmp_path / "out")

    encoder = exportable.text.encoder
    refused("its pattern is Pattern", pattern=delayed([0, 0, 1, 2]))
    refused("its kind of pattern is unrolled", write_audiocraft, pattern=unrolled([0, 1, 2, 3]))
    refused("its null of texts is learned", text=TextConditioner(encoder, 32, null="learned"))
    refused("its codec is object, expected EncodecTokenizer", codec=object())
    own = copy.copy(exportable.text)
    own.encoder = torch.nn.Identity()  # type: ignore[assignment]
    refused("its text encoder is Identity, expected T5Encoder", text=own)
    refused(
        "Export needs a single guidance_scale, got .'text': 3.0.",
        sampling=Sampling(guidance_scale={"text": 3.0}),
    )
    refused(
        r"Export needs a single temperature, got \(1.0, 0.5\)",
        sampling=Sampling(temperature=(1.0, 0.5)),
    )
    refused(
        "t5-base, has width 16, but audiocraft expects 768",
        write_audiocraft,
        t5_name="t5-base",
    )
    refused(
        "None, has width 16, but audiocraft expects another name. Set t5_name",
        write_audiocraft,
        t5_name=None,
    )


def test_biases_are_only_expressed_by_audiocraft(wide: MusicGenParts, tmp_path: Path) -> None:
    transformer = dataclasses.replace(wide.model.config.transformer, bias=True)
    model = TokenLM(dataclasses.replace(wide.model.config, transformer=transformer)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    biased = dataclasses.replace(wide, model=model)
    with pytest.raises(ValueError, match="its bias is True, expected False"):
        write_musicgen(biased, tmp_path / "out")
    write_audiocraft(biased, tmp_path / "out")
    wide.text.encoder.save(tmp_path / "t5")  # type: ignore[attr-defined]
    assert_equal(read_audiocraft(tmp_path / "out", text_encoder=tmp_path / "t5"), biased)


def test_a_codec_in_chunks_is_not_expressed_by_audiocraft(
    wide: MusicGenParts, tmp_path: Path
) -> None:
    codec: Any = copy.deepcopy(wide.codec)
    codec.model.config.chunk_length_s = 1.0
    with pytest.raises(ValueError, match=r"its codec works in chunks of 1.0 s"):
        write_audiocraft(dataclasses.replace(wide, codec=codec), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_nothing_is_left_of_what_fails_and_nothing_is_overwritten(
    exportable: MusicGenParts, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="out already exists"):
        write_musicgen(exportable, tmp_path / "out")
    wrong = dataclasses.replace(exportable, sampling=Sampling(guidance_scale={"text": 1.0}))
    with pytest.raises(ValueError, match="needs a single guidance_scale"):
        write_musicgen(wrong, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    write_musicgen(exportable, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()


@pytest.fixture
def exportable(musicgen_folder: Path) -> MusicGenParts:
    return read_musicgen(musicgen_folder)


@pytest.fixture
def wide(exportable: MusicGenParts, make_tiny_t5: Callable[..., Path]) -> MusicGenParts:
    """With a T5 of a width that audiocraft knows."""
    encoder = T5Encoder.load(make_tiny_t5(512))
    text = TextConditioner(encoder, exportable.model.config.transformer.dim)
    return dataclasses.replace(exportable, text=text.eval(), t5_name="t5-small")


def assert_equal(ours: MusicGenParts, theirs: MusicGenParts) -> None:
    assert ours.model.config == theirs.model.config
    for name in ("pattern", "num_channels", "max_frames", "sampling", "sample_rate"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.codec.identity == theirs.codec.identity
    pairs: list[tuple[Any, Any]] = [(ours.model, theirs.model), (ours.text, theirs.text)]
    pairs.append((ours.text.encoder.model, theirs.text.encoder.model))  # type: ignore[attr-defined]
    for module, other in pairs:
        state, expected = module.state_dict(), other.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
