"""Bark of transformers, and its original files, against transformers itself."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BarkModel

from lm_audio.families.bark.original_layout import holds_original_bark
from lm_audio.families.bark.parts import BarkSettings
from lm_audio.families.bark.reading import read_bark
from lm_audio.families.bark.transformers_layout import read_settings
from lm_audio.saving.pickles import read_pickle

SHAPES = [
    {"bias": True},
    {"bias": False, "num_layers": 3, "num_heads": 4, "hidden_size": 24},
    {"bias": False, "num_layers": 1},
    {"bias": False, "num_heads": 3, "hidden_size": 27},
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module", params=SHAPES, ids=["biases", "wide", "shallow", "odd"])
def both(
    request: Any,
    make_bark: Callable[..., BarkModel],
    save_bark: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[BarkModel, Any]:
    """A model of transformers and what is read of its checkpoint."""
    model = make_bark(**request.param)
    return model, read_bark(save_bark(model, tmp_path_factory.mktemp("bark")))


@pytest.fixture
def folder(
    make_bark: Callable[..., BarkModel], save_bark: Callable[..., Path], tmp_path: Path
) -> Path:
    return save_bark(make_bark(), tmp_path / "bark")


@torch.inference_mode()
def test_semantic_logits_equal_those_of_transformers(both: tuple[BarkModel, Any]) -> None:
    model, parts = both
    tokens = torch.randint(0, 96, (2, 40))
    expected = model.semantic(tokens).logits
    got = parts.semantic(tokens[:, None])[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_coarse_logits_equal_those_of_transformers_with_acoustic_tokens_first(
    both: tuple[BarkModel, Any],
) -> None:
    model, parts = both
    order = [*range(40, 72), *range(40), *range(72, 76)]
    tokens = torch.randint(0, 76, (2, 40))
    expected = model.coarse_acoustics(torch.tensor(order)[tokens]).logits[..., order]
    got = parts.coarse(tokens[:, None])[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("codebook", range(1, 8))
def test_fine_logits_equal_those_of_transformers(
    both: tuple[BarkModel, Any], codebook: int
) -> None:
    model, parts = both
    tokens = torch.randint(0, 18, (2, 8, 16))
    expected = model.fine_acoustics(codebook, tokens.transpose(1, 2)).logits
    got = parts.fine(tokens, codebook=codebook)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_heads_of_a_fine_model_with_two_given_codebooks_equal_those_of_transformers(
    make_bark: Callable[..., BarkModel], save_bark: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_bark(n_codes_given=2)
    parts = read_bark(save_bark(model, tmp_path))
    tokens = torch.randint(0, 18, (2, 8, 16))
    for codebook in range(2, 8):
        expected = model.fine_acoustics(codebook, tokens.transpose(1, 2)).logits
        got = parts.fine(tokens, codebook=codebook)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_more_given_codebooks_than_coarse_ones_are_refused(
    make_bark: Callable[..., BarkModel], save_bark: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_bark(make_bark(n_codes_given=3), tmp_path)
    with pytest.raises(ValueError, match="needs 3 codebooks and the coarse model generates 2"):
        read_bark(folder)


@torch.inference_mode()
def test_the_codec_decodes_as_the_one_of_transformers(both: tuple[BarkModel, Any]) -> None:
    model, parts = both
    tokens = torch.randint(0, 16, (1, 8, 20))
    expected = model.codec_decode(tokens)[:, None]
    torch.testing.assert_close(parts.codec.decode(tokens), expected, atol=1e-5, rtol=0)


def test_codebook_zero_is_never_predicted(both: tuple[BarkModel, Any]) -> None:
    with pytest.raises(ValueError, match="codebook must be between 1 and 7, got 0"):
        both[1].fine(torch.zeros(1, 8, 4, dtype=torch.int64), codebook=0)


def test_constants_come_from_the_generation_config(folder: Path) -> None:
    settings = read_bark(folder).settings
    assert (settings.semantic_start, settings.coarse_window, settings.fine_hop) == (94, 6, 8)
    assert settings.semantic_rate * 10 == 499


def test_constants_that_are_not_stated_are_those_of_transformers() -> None:
    from transformers.models.bark import generation_configuration_bark as theirs

    stated = {
        "codebook_size": 1024,
        "semantic_config": vars(theirs.BarkSemanticGenerationConfig()),
        "coarse_acoustics_config": vars(theirs.BarkCoarseGenerationConfig()),
        "fine_acoustics_config": vars(theirs.BarkFineGenerationConfig()),
    }
    assert read_settings(stated) == read_settings({})
    published = BarkSettings()
    unsampled = {"semantic": published.semantic, "coarse": published.coarse, "fine": published.fine}
    assert replace(read_settings({}), **unsampled) == published


def test_stages_are_sampled_as_the_generation_config_says(folder: Path) -> None:
    path = folder / "generation_config.json"
    stated = json.loads(path.read_text())
    stated["semantic_config"] |= {"do_sample": True, "temperature": 0.7, "top_k": 30}
    stated["fine_acoustics_config"]["temperature"] = 0.5
    path.write_text(json.dumps(stated))
    settings = read_bark(folder).settings
    assert (settings.semantic.temperature, settings.semantic.top_k) == (0.7, 30)
    assert (settings.coarse.temperature, settings.fine.temperature) == (0, 0.5)


def test_an_early_stop_that_is_asked_for_and_not_offered_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    read_settings({"semantic_config": {"min_eos_p": 0.2}})
    assert "min_eos_p in generation_config.json is ignored" in caplog.text


def test_shards_and_pickles_load_as_one_file_does(folder: Path, tmp_path: Path) -> None:
    model = BarkModel.from_pretrained(folder)
    whole = read_bark(folder)
    sharded = shutil.copytree(folder, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="20kB")
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for other in (read_bark(sharded), read_bark(pickled)):
        assert_equal_weights(other, whole)


def test_the_original_files_load_to_bit_equal_models(
    published_bark: dict[str, Any],
    save_original: Callable[..., list[Path]],
    folder: Path,
    tmp_path: Path,
) -> None:
    # file names that say the wrong thing
    names = {"coarse": "text_2.pt", "fine": "coarse_2.pt", "semantic": "fine_2.pt"}
    originals = {names[role]: model for role, model in published_bark.items()}
    (tmp_path / "original").mkdir()
    save_original(originals, tmp_path / "original")
    assert holds_original_bark(tmp_path / "original")
    codec = tmp_path / "codec"
    BarkModel.from_pretrained(folder).codec_model.save_pretrained(codec)
    got = read_bark(tmp_path / "original", codec=codec, text_tokenizer=folder)

    as_transformers = composite(published_bark, folder, tmp_path / "transformers")
    assert_equal_weights(got, read_bark(as_transformers))


def composite(models: dict[str, Any], like: Path, folder: Path) -> Path:
    """A transformers folder of these models, with the codec and tokenizer of another."""
    shutil.copytree(like, folder)
    bark = BarkModel.from_pretrained(like)
    bark.semantic, bark.coarse_acoustics = models["semantic"], models["coarse"]
    bark.fine_acoustics = models["fine"]
    bark.config.semantic_config = models["semantic"].config
    bark.config.coarse_acoustics_config = models["coarse"].config
    bark.config.fine_acoustics_config = models["fine"].config
    bark.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return folder


def assert_equal_weights(one: Any, other: Any) -> None:
    for name in ("semantic", "coarse", "fine"):
        found, expected = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
        assert getattr(one, name).config == getattr(other, name).config


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("malicious-code-ran",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"semantic.x": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"Refused to read .*could run code"):
        read_bark(folder)
    torch.save({"model": {}, "model_args": {}, "best_val_loss": Malicious()}, tmp_path / "text.pt")
    with pytest.raises(ValueError, match=r"Refused to read .*could run code"):
        read_bark([tmp_path / "text.pt"])
    assert not (tmp_path / "malicious-code-ran").exists()


def test_numpy_scalars_of_both_generations_are_read_and_objects_refused(tmp_path: Path) -> None:
    file, old = tmp_path / "new.pt", tmp_path / "old.pt"
    torch.save({"best_val_loss": np.float64(2.5)}, file)
    with zipfile.ZipFile(file) as new, zipfile.ZipFile(old, "w") as archive:
        for name in new.namelist():
            archive.writestr(name, new.read(name).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core.multiarray" in old.read_bytes()
    assert read_pickle(file) == read_pickle(old) == {"best_val_loss": 2.5}
    torch.save({"best_val_loss": ObjectScalar()}, file)
    with pytest.raises(ValueError, match="Refused to read"):
        read_pickle(file)


class ObjectScalar:
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return np._core.multiarray.scalar, (np.dtype("O"), b"cos\nmkdir\n(S'x'\ntR.")


def test_truncated_files_are_refused(
    published_bark: dict[str, Any],
    save_original: Callable[..., list[Path]],
    folder: Path,
    tmp_path: Path,
) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        read_bark(folder)
    [file] = save_original({"coarse.pt": published_bark["coarse"]}, tmp_path)
    file.write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"coarse\.pt: not a complete"):
        read_bark([file])


def test_two_models_of_a_kind_and_missing_ones_are_named(
    published_bark: dict[str, Any], save_original: Callable[..., list[Path]], tmp_path: Path
) -> None:
    save_original({"a.pt": published_bark["coarse"], "b.pt": published_bark["coarse"]}, tmp_path)
    with pytest.raises(ValueError, match=r"Expected one semantic model .* found 0 \(none\)"):
        read_bark(tmp_path)
    save_original({"c.pt": published_bark["semantic"]}, tmp_path)
    with pytest.raises(ValueError, match=r"Expected one coarse model .* found 2 \(a\.pt, b\.pt\)"):
        read_bark(tmp_path)


def test_missing_unexpected_and_misshapen_weights_are_listed(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)

    def check(changed: dict[str, torch.Tensor], match: str) -> None:
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=match):
            read_bark(folder)

    name = "semantic.layers.0.attn.att_proj.weight"
    check({k: x for k, x in weights.items() if k != name}, "blocks.0.attention.input.weight")
    check(weights | {"semantic.more": torch.ones(1)}, "unexpected weights: more")
    check(weights | {"other.more": torch.ones(1)}, "Unexpected weights: other.more")
    check(weights | {name: torch.ones(3, 3)}, r"\[3, 3\] instead of \[48, 16\]")
    coarse_only = {k: x for k, x in weights.items() if k.startswith("coarse")}
    check(coarse_only, "Missing parts: semantic, fine_acoustics, codec_model")
    head = {"fine_acoustics.lm_heads.2.weight": torch.ones(18, 16)}
    check(weights | head, r"differs from embedding 3\. Expected tied")


def test_windows_that_exceed_the_positions_are_refused(folder: Path) -> None:
    path = folder / "generation_config.json"
    stated = json.loads(path.read_text())
    stated["coarse_acoustics_config"]["max_coarse_history"] = 60
    path.write_text(json.dumps(stated))
    with pytest.raises(ValueError, match="coarse model has 64 positions, but its windows need 74"):
        read_bark(folder)


def test_what_is_no_bark_is_told(tmp_path: Path) -> None:
    assert not holds_original_bark(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"nothing of use")
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pt")
    assert not holds_original_bark(tmp_path)
    with pytest.raises(ValueError, match="Folder nothing not found"):
        read_bark("nothing")
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        read_bark(tmp_path)


def test_a_config_that_transformers_rejects_is_refused_in_one_sentence(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["codec_config"]["norm_type"] = "spectral_norm"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json.* does not describe .*norm_type must be"):
        read_bark(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match="Could not read a text tokenizer"):
        read_bark(folder)
