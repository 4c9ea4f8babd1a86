"""Speech becomes a corpus: a grid of voices and sentences, the same for a seed, killed or not."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.manifest import SPLITS, conditions_of, read_cuts

LoadRecipe = Callable[[str], ModuleType]


def prepare(recipe: ModuleType, out: Path, **settings: Any) -> list[dict[str, Any]]:
    recipe.main(recipe.Config(preset="tiny", out=out, num_workers=2, **settings))
    return [conditions_of(cut) for split in SPLITS for cut in read_cuts(out, split)]


def all_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_voice_reads_its_own_and_shared_sentences(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    found = prepare(load_recipe("default_model/prepare_speech"), tmp_path)
    readers: dict[str, set[str]] = {}
    for conditions in found:
        assert conditions["label"] == "speech"
        assert any(conditions["transcript"] in text for text in conditions["text"])
        readers.setdefault(conditions["transcript"], set()).add(conditions["speaker"])
    assert sorted(map(len, readers.values())) == [1] * 12 + [4] * 2
    splits = [
        {conditions_of(cut)["transcript"] for cut in read_cuts(tmp_path, split)} for split in SPLITS
    ]
    assert splits[1]
    assert not splits[0] & splits[1]
    unseen = [json.loads(x) for x in (tmp_path / "unseen_captions.jsonl").read_text().splitlines()]
    assert not {row["text"] for row in unseen} & {t for c in found for t in c["text"]}
    assert "CC0" in (tmp_path / "LICENCES.md").read_text()


def test_a_seed_decides_every_byte_and_what_is_there_is_kept(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("default_model/prepare_speech")
    settings = {"own_texts": 1, "shared_texts": 1, "voices": ("low", "high")}
    prepare(recipe, tmp_path / "one", **settings)
    prepare(recipe, tmp_path / "other", **settings)
    assert all_files(tmp_path / "one") == all_files(tmp_path / "other")

    first, second, *_ = sorted((tmp_path / "one" / "audio").rglob("*.flac"))
    first.write_bytes(first.read_bytes()[:1_000])  # as of a run that was killed
    before = second.stat().st_mtime_ns
    prepare(recipe, tmp_path / "one", **settings)
    assert all_files(tmp_path / "one") == all_files(tmp_path / "other")
    assert second.stat().st_mtime_ns == before

    found = prepare(recipe, tmp_path / "third", **settings, seed=1)
    texts = {c["transcript"] for c in found}
    assert not texts & {
        conditions_of(c)["transcript"] for c in read_cuts(tmp_path / "one", "train")
    }


def test_sentences_are_taken_from_a_file(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/prepare_speech")
    texts = tmp_path / "texts.txt"
    texts.write_text("One.\nTwo.\n\n Three.\nOne.\n")
    settings = {"texts": texts, "own_texts": 1, "shared_texts": 1, "voices": ("low", "high")}
    found = prepare(recipe, tmp_path / "out", **settings)
    assert {c["transcript"] for c in found} == {"One.", "Two.", "Three."}
    with pytest.raises(ValueError, match=r"texts.txt has 3 sentences but 5 are needed; add some"):
        prepare(recipe, tmp_path / "out", **{**settings, "own_texts": 2})
    texts.write_text("a" * 400)
    with pytest.raises(ValueError, match=r"has a line of 400 characters, 'a+'; the maximum is 350"):
        prepare(recipe, tmp_path / "out", **settings)
    with pytest.raises(ValueError, match=r"nowhere is not a file; pass a text file with one"):
        prepare(recipe, tmp_path / "out", **{**settings, "texts": tmp_path / "nowhere"})


def test_speech_that_is_there_is_described(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/prepare_speech")
    write_audio(tmp_path / "ann" / "0.ogg", 0.1 * torch.randn(1, 8_000), 24_000)
    rows = [
        {"file": "ann/0.ogg", "voice": "bf_ann", "text": "Good day.", "speed": 0.8},
        {"file": "ann/1.ogg", "voice": "bf_ann", "text": "It is not there."},
        {"file": "ann/0.ogg", "text": "Nobody says this."},
        [],
    ]
    manifest = tmp_path / "utterances.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    found = prepare(recipe, tmp_path / "out", manifest=(manifest,))
    assert len(found) == 1
    assert {key: found[0][key] for key in ("speaker", "accent", "transcript")} == {
        "speaker": "bf_ann",
        "accent": "British",
        "transcript": "Good day.",
    }
    assert any("slowly" in text for text in found[0]["text"])
    skipped: list[str] = []
    recipe.read_manifest(manifest, skipped)
    assert [line.split(":")[0] for line in skipped] == [
        f"utterances.jsonl line {n}" for n in (2, 3, 4)
    ]
    assert "No such file: " in skipped[0]
    assert skipped[1].endswith("no 'voice'")
    assert skipped[2].endswith("not a JSON object")
    manifest.write_text("{}")
    with pytest.raises(ValueError, match=r"Found no usable utterances in .*; check its paths"):
        prepare(recipe, tmp_path / "out", manifest=(manifest,))
    with pytest.raises(ValueError, match=r"nowhere is not a file; pass a .jsonl file with one"):
        prepare(recipe, tmp_path / "out", manifest=(tmp_path / "nowhere",))


def test_mistakes_are_told(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/prepare_speech")
    for settings, message in (
        ({"engine": "kokoro"}, r"No speech model; pass --kokoro with a copy of"),
        ({"voices": ("loud",)}, r"Unknown voice 'loud'. Choose from: low, middle, high, small"),
        ({"own_texts": 0, "shared_texts": 0}, r"must add up to at least 1, got 0 and 0"),
        ({"speeds": (1.2, 0.8)}, r"--speeds must be two rising values .* got 1.2 and 0.8"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(recipe, tmp_path, **settings)
