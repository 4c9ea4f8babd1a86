"""From one published layout to the other and back, by the public way."""

from pathlib import Path

import pytest
import torch
from transformers import MusicgenForConditionalGeneration

import lm_audio
from lm_audio.pipeline import AudioPipeline


def weights(model: AudioPipeline) -> dict[str, torch.Tensor]:
    (stage,) = model.stages.values()
    return {**stage.model.state_dict(), **stage.conditioners.state_dict()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["", "stereo_"])
def test_audiocraft_to_lm_audio_to_transformers_to_lm_audio_is_equal_to_the_bit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    first = lm_audio.load(request.getfixturevalue(f"{kind}audiocraft_folder"))
    first.save(tmp_path / "saved")
    lm_audio.load(tmp_path / "saved").export(tmp_path / "theirs")
    last = lm_audio.load(tmp_path / "theirs")
    expected, found = weights(first), weights(last)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert last.renderer.identity == first.renderer.identity
    clips = [model.generate("a dog", duration=0.2, seed=1) for model in (first, last)]
    assert torch.equal(clips[0].samples, clips[1].samples)
    published = lm_audio.load(request.getfixturevalue(f"{kind}musicgen_folder"))
    for name, tensor in weights(published).items():
        assert torch.equal(tensor, expected[name]), name


def test_an_export_generates_in_transformers(musicgen_folder: Path, tmp_path: Path) -> None:
    lm_audio.load(musicgen_folder).export(tmp_path / "out", layout="transformers")
    exported = MusicgenForConditionalGeneration.from_pretrained(tmp_path / "out")
    original = MusicgenForConditionalGeneration.from_pretrained(musicgen_folder)
    ids = torch.tensor([[4, 5, 6, 1]])
    made = [
        model.generate(input_ids=ids, do_sample=False, guidance_scale=3.0, max_new_tokens=10)
        for model in (exported, original)
    ]
    torch.testing.assert_close(made[0], made[1])


def test_other_shapes_are_refused_in_one_sentence(musicgen_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="and a codec, got the stages semantic, acoustic",
    ):
        lm_audio.load().export(tmp_path / "x", layout="transformers")
    with pytest.raises(ValueError, match="Unknown layout 'onnx'"):
        lm_audio.load(musicgen_folder).export(tmp_path / "x", layout="onnx")  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
