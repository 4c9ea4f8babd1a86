"""A cascade's folder: the same clips, and one sentence for what is wrong with it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lm_audio
from lm_audio.cli import main
from lm_audio.families.noise2music.stages import cascade, cascader, waveform
from lm_audio.model import Model
from lm_audio.networks.unet1d import UNet1dConfig
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from lm_audio.saving.folder import save_model

SAMPLING = Denoising(steps=2, solver="ddim", guidance_scale=2.0)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits a JSON file and the size that the model's config has for it."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    if path.parent.name != "copy":
        name = f"{path.parent.name}/{path.name}"
        size = path.stat().st_size
        change(path.parents[1] / "config.json", lambda c: c["files"].update({name: size}))


def test_a_saved_cascade_makes_the_same_clips(small: Model, folder: Path) -> None:
    model = lm_audio.load(folder)
    assert (model.card.name, model.card.licence) == ("small", "MIT")
    settings: dict[str, Any] = {"duration": 0.04, "seed": 3, "sampling": SAMPLING}
    made = AudioPipeline(small).generate("rain", **settings)
    assert torch.equal(model.generate("rain", **settings).samples, made.samples)
    assert model.stages["cascader-4000"].makes == small.stages[1].makes
    assert sorted(path.name for path in folder.iterdir()) == [
        "cascader-4000", "cascader-6000", "config.json", "generator",
    ]  # fmt: skip


def test_bfloat16_and_half_run(small: Model, folder: Path, tmp_path: Path) -> None:
    save_model(small, tmp_path / "half", half=True)
    for model in (lm_audio.load(folder, dtype="bfloat16"), lm_audio.load(tmp_path / "half")):
        made = model.generate("rain", duration=0.02, seed=3, sampling=SAMPLING)
        assert made.samples.isfinite().all()


def test_its_facts_are_listed(
    folder: Path, small: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["info", str(folder)])
    found = capsys.readouterr().out
    assert re.search(r"output +6000 Hz mono", found)
    assert "cascader-4000: " in found
    assert "1 at 4000 Hz, window of 0.0 s" in found
    save_model(cascade(list(small.stages[1:])), tmp_path / "lone")  # type: ignore[arg-type]
    main(["info", str(tmp_path / "lone")])
    assert re.search(r"raises +the rate of sound from 1000 Hz", capsys.readouterr().out)


def test_damaged_folders_get_one_sentence(copy: Path) -> None:
    weights = copy / "cascader-6000" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"has \d+ bytes, expected \d+\. Download the model again"):
        lm_audio.load(copy)
    weights.write_bytes(whole)
    (copy / "generator" / "config.json").rename(copy / "kept.json")
    with pytest.raises(ValueError, match=r"config\.json is missing\. Download the model again"):
        lm_audio.load(copy)


@pytest.mark.parametrize(
    ("file", "edit", "sentence"),
    [
        ("config.json", lambda c: c["renderer"].update(sample_rate=0), "sample_rate must be at"),
        ("config.json", lambda c: c["renderer"].pop("channels"), "cannot build the model in"),
        ("config.json", lambda c: c["stages"].pop(0), "is not an earlier stage"),
        (
            "config.json",
            lambda c: c["stages"][1]["conditioners"]["stacked"].update(ratio="3/2"),
            "ratio must be a Fraction above 0 and at most 1",
        ),
        (
            "config.json",
            lambda c: c["stages"][1]["conditioners"]["stacked"].update(dim=2),
            "does not fit its stage",
        ),
        ("generator/config.json", lambda c: c.update(in_channels=2), "does not fit its stage"),
        ("generator/config.json", lambda c: c.update(widths=[32, 64]), "expected|shape"),
        ("generator/config.json", lambda c: c.update(model_type="x"), "is not a lm-audio-unet1d"),
        ("generator/config.json", lambda c: c.update(num_attending=9), "num_attending must be"),
    ],
)
def test_configs_that_do_not_fit_get_one_sentence(
    copy: Path, file: str, edit: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    change(copy / file, edit)
    with pytest.raises(ValueError, match=sentence) as raised:
        lm_audio.load(copy)
    assert "\n" not in str(raised.value)


def test_stages_that_do_not_follow_one_another_are_refused(small: Model) -> None:
    first, second, third = small.stages
    with pytest.raises(ValueError, match=r"The cascader-6000 stage follows .* 4000 frames"):
        cascade([first, third])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="The generator stage is no cascader, but follows"):
        cascade([first, first])  # type: ignore[list-item]
    shape = UNet1dConfig(in_channels=1, out_channels=1, widths=(32, 32), num_attending=0)
    with pytest.raises(ValueError, match="raises the rate of a signal, got 4000 Hz to 4000 Hz"):
        cascader(shape, follows=waveform(4000), rate=4000, most_noise=0.5, window_seconds=0.02)
    assert second.source is not None
