"""Token files hold what decoding needs, and say clearly when they do not."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audio_tokenizers.token_file import EncodedAudio, load_encoded, save_encoded

CLIP = EncodedAudio(
    tokens=torch.arange(12).reshape(2, 6),
    gains=None,
    num_samples=2_880,
    sample_rate=24_000,
    codec="default",
    identity="frame-codec-0123",
)


@pytest.mark.parametrize("gains", [None, torch.tensor([0.5, 2.0])])
def test_a_clip_reads_back_the_same(tmp_path: Path, gains: torch.Tensor | None) -> None:
    path = tmp_path / "clip.safetensors"
    save_encoded(dataclasses.replace(CLIP, gains=gains), path)
    again = load_encoded(path)
    assert torch.equal(again.tokens, CLIP.tokens)
    assert again.tokens.dtype == torch.int64
    assert (again.gains is None) == (gains is None)
    if gains is not None:
        assert torch.equal(again.gains, gains)
    scalar = torch.tensor(0)  # from Python 3.13 on, == compares even identical fields
    same = [dataclasses.replace(clip, tokens=scalar, gains=None) for clip in (again, CLIP)]
    assert same[0] == same[1]
    assert again.duration == 0.12


def test_tokens_take_two_bytes_where_they_fit(tmp_path: Path) -> None:
    save_encoded(CLIP, tmp_path / "small.safetensors")
    assert load_file(tmp_path / "small.safetensors")["tokens"].dtype == torch.int16
    large = dataclasses.replace(CLIP, tokens=CLIP.tokens + 40_000)
    save_encoded(large, tmp_path / "large.safetensors")
    assert torch.equal(load_encoded(tmp_path / "large.safetensors").tokens, large.tokens)


def test_bad_files_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.safetensors does not exist"):
        load_encoded(tmp_path / "none.safetensors")
    save_encoded(CLIP, tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"is not a valid safetensors file"):
        load_encoded(cut)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"is not a token file"):
        load_encoded(tmp_path / "other.safetensors")
    tensors = {"tokens": torch.zeros(1, 1)}
    for header in ("{", '{"format": "lm-audio tokens 1"}', '{"format": "lm-audio tokens 9"}'):
        save_file(tensors, tmp_path / "other.safetensors", metadata={"lm-audio": header})
        with pytest.raises(ValueError, match=r"is not a token file"):
            load_encoded(tmp_path / "other.safetensors")
