"""Assembling the embedded default: what is kept, what is refused, what is written."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import lm_audio
from audio_tokenizers.acoustic.frame_codec import load_frame_codec, save_frame_codec

GREEDY = lm_audio.Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("default_model/assemble")


@pytest.fixture(scope="module")
def model_folder(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a codec that float16 does not hold."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "model"
    model = recipe.read_model(recipe.Config(preset="tiny"))
    for layer in model.renderer.codec.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    model.save(folder)
    return folder


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_the_model_is_written_in_half_beside_what_lay_there(
    recipe: ModuleType,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "pretrained"
    (out / "codec").mkdir(parents=True)
    (out / "codec/old.safetensors").write_bytes(b"old")
    (out / "README.md").write_text("# Model card\n")
    recipe.main(
        recipe.Config(model=model_folder, out=out, guidance_scale=2.0, semantic_temperature=0.8)
    )
    assert not (out / "codec/old.safetensors").exists()
    assert (out / "README.md").read_text() == "# Model card\n"
    assert f"MB in total, in {out}" in capsys.readouterr().out
    exact, model = lm_audio.load(model_folder), lm_audio.load(out)
    assert model.card.licence == "Apache-2.0"
    assert model.renderer.identity == exact.renderer.identity
    for name, stage in model.stages.items():
        expected = exact.stages[name].model.state_dict()
        found = stage.model.state_dict()
        assert all(torch.equal(found[key], expected[key].half().float()) for key in expected)
        assert stage.sampling.guidance_scale == 2.0
    assert model.stages["semantic"].sampling.temperature == 0.8
    assert model.stages["acoustic"].sampling.temperature == 1.0


def test_a_rounded_codec_is_one_file_for_the_model_and_for_tokens(
    recipe: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    save_frame_codec(load_frame_codec(model_folder / "codec"), tmp_path / "codec", half=True)
    model = lm_audio.load(model_folder)
    model.renderer.codec.load_state_dict(load_frame_codec(tmp_path / "codec").state_dict())
    model.save(tmp_path / "model")
    out = recipe.main(recipe.Config(model=tmp_path / "model", out=tmp_path / "out"))
    name = "model.safetensors"
    assert (out / "codec" / name).read_bytes() == (tmp_path / "codec" / name).read_bytes()
    assert size(out) < 0.51 * size(model_folder) + 10_000


def test_the_same_model_can_be_assembled_again(
    recipe: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        out = recipe.main(recipe.Config(model=model_folder, out=tmp_path / "out"))
    assert lm_audio.load(out).generate("rain", duration=0.1, seed=1).duration == 0.1


def test_a_folder_with_anything_else_is_not_replaced(
    recipe: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "home/photos").mkdir(parents=True)
    with pytest.raises(ValueError, match="photos is not part of a model"):
        recipe.main(recipe.Config(model=model_folder, out=tmp_path / "home"))
    assert (tmp_path / "home/photos").is_dir()


def test_a_model_too_large_for_the_package_is_refused(
    recipe: ModuleType, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match="train a smaller model, and round codec"):
        recipe.main(recipe.Config(model=model_folder, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_model_is_asked_for(recipe: ModuleType) -> None:
    with pytest.raises(ValueError, match="No model; pass the folder"):
        recipe.main(recipe.Config())
