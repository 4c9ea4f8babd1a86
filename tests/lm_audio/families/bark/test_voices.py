"""The voices of Bark: every way to name one, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm_audio.families.bark.voices import INDEX_FILE, BarkVoice, BarkVoices

ARRAYS: dict[str, Any] = {
    "semantic_prompt": np.arange(6, dtype=np.int32),
    "coarse_prompt": np.arange(18).reshape(2, 9) % 16,
    "fine_prompt": np.arange(72).reshape(8, 9) % 16,
}


@pytest.fixture
def voices(tmp_path: Path) -> BarkVoices:
    """Those of a checkpoint's folder that has one, `v2/en_speaker_6`."""
    index: dict[str, Any] = {"repo_or_path": "suno/bark", "v2/en_speaker_6": {}}
    (tmp_path / "speaker_embeddings" / "v2").mkdir(parents=True)
    for part, array in ARRAYS.items():
        file = f"speaker_embeddings/v2/en_speaker_6_{part}.npy"
        np.save(tmp_path / file, array)
        index["v2/en_speaker_6"][part] = file
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    return of_folder(tmp_path)


def of_folder(folder: Path) -> BarkVoices:
    return BarkVoices(folder, sizes=(40, 16), num_codebooks=(2, 8))


def assert_right(voice: BarkVoice) -> None:
    for part, array in ARRAYS.items():
        tokens = getattr(voice, part.removesuffix("_prompt"))
        assert tokens.dtype == torch.int64
        assert np.array_equal(tokens.numpy(), array)


def test_a_voice_is_named_given_as_a_file_or_as_arrays(voices: BarkVoices, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **ARRAYS)
    assert voices.names() == ["v2/en_speaker_6"]
    named = voices.load("v2/en_speaker_6")
    for voice in ("v2/en_speaker_6", str(tmp_path / "mine.npz"), tmp_path / "mine.npz", ARRAYS):
        assert_right(voices.load(voice))
    assert_right(voices.load(named))


def test_an_unknown_voice_is_refused_with_those_that_there_are(
    voices: BarkVoices, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Unknown voice 'me'.*voices: v2/en_speaker_6\."):
        voices.load("me")
    with pytest.raises(ValueError, match=r"voices: none\."):
        of_folder(tmp_path / "speaker_embeddings").load("me")


def test_files_with_objects_and_damaged_files_are_refused(
    voices: BarkVoices, tmp_path: Path
) -> None:
    file = tmp_path / "bad.npz"
    np.savez(file, **(ARRAYS | {"fine_prompt": np.array([[print]], dtype=object)}))
    with pytest.raises(ValueError, match=r"bad\.npz is not a valid NumPy file of plain numbers"):
        voices.load(file)
    np.savez(file, **ARRAYS)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bad\.npz is not a valid NumPy file of plain numbers"):
        voices.load(file)
    part = tmp_path / "speaker_embeddings" / "v2" / "en_speaker_6_fine_prompt.npy"
    np.save(part, np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"fine_prompt\.npy is not a valid NumPy file"):
        voices.load("v2/en_speaker_6")


def test_an_index_that_leads_out_of_the_folder_is_refused(
    voices: BarkVoices, tmp_path: Path
) -> None:
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    for path in ("../secret.npy", "/etc/secret.npy"):
        index["v2/en_speaker_6"]["semantic_prompt"] = path
        (tmp_path / INDEX_FILE).write_text(json.dumps(index))
        with pytest.raises(ValueError, match="it is outside the checkpoint's folder"):
            voices.load("v2/en_speaker_6")


@pytest.mark.usefixtures("voices")
def test_what_the_folder_lacks_comes_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import hub

    def of_the_hub(hub_id: str, name: str, **_: Any) -> str | None:
        assert hub_id == "suno/bark"
        return str(tmp_path / name) if (tmp_path / name).is_file() else None

    monkeypatch.setattr(hub, "cached_file", of_the_hub)
    empty = tmp_path / "empty"
    empty.mkdir()
    settings: dict[str, Any] = {"sizes": (40, 16), "num_codebooks": (2, 8)}
    assert_right(BarkVoices(empty, hub_id="suno/bark", **settings).load("v2/en_speaker_6"))
    assert BarkVoices(empty, **settings).names() == []


def test_an_incomplete_checkpoint_is_told(voices: BarkVoices, tmp_path: Path) -> None:
    (tmp_path / "speaker_embeddings" / "v2" / "en_speaker_6_coarse_prompt.npy").unlink()
    with pytest.raises(ValueError, match="Voice v2/en_speaker_6 has no coarse_prompt"):
        voices.load("v2/en_speaker_6")
    (tmp_path / INDEX_FILE).write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        voices.load("v2/en_speaker_6")


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("semantic_prompt", np.zeros((2, 3), dtype=int), r"shape \[T\] .*got \[2, 3\]"),
        ("coarse_prompt", np.zeros((3, 3), dtype=int), r"shape \[2, T\] .*got \[3, 3\]"),
        ("fine_prompt", np.zeros(8, dtype=int), r"shape \[8, T\] .*got \[8\]"),
        ("semantic_prompt", np.array([0, 40]), "tokens between 0 and 39"),
        ("fine_prompt", np.full((8, 2), -1), "tokens between 0 and 15"),
        ("coarse_prompt", np.zeros((2, 0), dtype=int), "empty"),
        ("coarse_prompt", np.zeros((2, 3)), "must contain integers, got float64"),
    ],
)
def test_arrays_that_are_no_tokens_of_the_model_are_refused(
    voices: BarkVoices, part: str, array: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        voices.load(ARRAYS | {part: array})
    with pytest.raises(ValueError, match=f"has no {part}"):
        voices.load({name: x for name, x in ARRAYS.items() if name != part})
