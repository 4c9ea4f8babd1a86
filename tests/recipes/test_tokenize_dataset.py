"""The recipe tokenizes any folder of sound, and goes on where it was stopped."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.corpus import load_corpus
from lm_audio.data.shards import Shards
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.pretrained import CODEC_FOLDER

LoadRecipe = Callable[[str], ModuleType]


def run(recipe: ModuleType, out: Path, **changes: Any) -> dict[str, Shards]:
    """Sixteen-bit samples alone, in this process, unless the changes say otherwise."""
    settings = {"codec": "none", "samples": 24_000, "preset": "tiny", "num_workers": 1}
    return recipe.main(recipe.Config(**{**settings, "out": out, "device": "cpu", **changes}))


def write_sounds(folder: Path) -> Path:
    for clip in synthetic_clips(num_clips=5, seconds=0.5, sample_rate=24_000, seed=1):
        samples = torch.from_numpy(clip.samples)[None].float() / 2**15
        write_audio(folder / clip.kind / f"{clip.name}.wav", samples, 24_000)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_tiny_preset_makes_tokens_of_the_codec_in_the_package(
    load_recipe: LoadRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = run(load_recipe("tokenize_dataset"), tmp_path, codec="default", samples=None)
    assert len(shards["train"]) + len(shards["held_out"]) == 12
    example = shards["train"][0]
    clip = read_audio(tmp_path / "corpus" / "audio" / f"{example.id}.flac").samples
    codec = load_codec(CODEC_FOLDER)
    assert torch.equal(example.streams["acoustic"].long(), codec.encode(clip[None])[0])
    assert example.conditions["label"] == example.id.split("-")[0]
    said = capsys.readouterr().out
    assert f"acoustic: 12 x 25 = 300 per second, {codec.identity}" in said
    assert f"Next: python recipes/train_stage.py --family audiocraft --data {tmp_path}" in said


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("tokenize_dataset")
    data = write_sounds(tmp_path / "sounds")
    run(recipe, tmp_path / "whole", data=data, mix=1)

    make_shards = recipe.make_shards

    def stopped_after_one(*arguments: Any, **settings: Any) -> Iterator[Any]:
        yield next(make_shards(*arguments, **settings))
        raise KeyboardInterrupt

    recipe.make_shards = stopped_after_one
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", data=data, mix=1)
    first = tmp_path / "stopped" / "train-00000.safetensors"
    made_at = first.stat().st_mtime_ns
    assert not (tmp_path / "stopped" / "held_out-00000.safetensors").exists()
    recipe.make_shards = make_shards
    run(recipe, tmp_path / "stopped", data=data, mix=1)
    assert first.stat().st_mtime_ns == made_at
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")


def test_a_second_run_with_a_cache_encodes_nothing(
    load_recipe: LoadRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = load_recipe("tokenize_dataset"), write_sounds(tmp_path / "sounds")
    settings = {"data": data, "codec": "default", "samples": None}
    run(recipe, tmp_path / "plain", **settings)
    run(recipe, tmp_path / "first", **settings, cache=tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(FrameCodec, "encode", lambda *_, **__: pytest.fail("encoded again"))
        run(recipe, tmp_path / "second", **settings, cache=tmp_path / "cache")
    assert bytes_of(tmp_path / "plain") == bytes_of(tmp_path / "first")
    assert bytes_of(tmp_path / "plain") == bytes_of(tmp_path / "second")
    run(recipe, tmp_path / "fewer", **settings, cache=tmp_path / "cache", num_codebooks=2)
    assert Shards(tmp_path / "fewer", "train").streams["acoustic"].num_codebooks == 2


def test_a_tokenizer_that_must_run_on_fairseq2_and_does_not_is_refused(
    load_recipe: LoadRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("tokenize_dataset")
    monkeypatch.chdir(tmp_path)
    assert recipe.absolute(Path("semantic")) == f"{tmp_path}/semantic"
    assert recipe.absolute(Path("fairseq2:semantic")) == f"fairseq2:{tmp_path}/semantic"
    with pytest.raises(ValueError, match=r"fairseq2:.*/semantic is a model without a codebook"):
        run(recipe, tmp_path / "out", semantic=Path("fairseq2:semantic"))


def test_bad_files_of_a_plain_folder_are_listed(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    data = write_sounds(tmp_path / "sounds")
    (data / "bad.wav").write_bytes(b"RIFF")
    shards = run(load_recipe("tokenize_dataset"), tmp_path / "out", data=data)
    ids = [*shards["train"].ids, *shards["held_out"].ids]
    assert sorted(ids) == [
        "chirp/chirp-1.wav", "chirp/chirp-4.wav", "pluck/pluck-0.wav", "pluck/pluck-3.wav",
        "rain/rain-2.wav",
    ]  # fmt: skip
    assert shards["train"].conditions[0] == {}
    name, why = (tmp_path / "out" / "skipped.txt").read_text().strip().split("\t")
    assert name == "bad.wav"
    assert "is not an audio file" in why


def test_a_plain_folder_is_held_out_from_as_where_it_trains_tokenizers(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    data = tmp_path / "sounds"
    for number in range(40):
        sound = torch.full((1, 2_400), 0.1 + 0.01 * number)
        for part in "ab":
            write_audio(data / f"{number % 3}" / f"{number:02}-{part}.wav", sound, 24_000)
    shards = run(load_recipe("tokenize_dataset"), tmp_path / "out", data=data)
    corpus = load_corpus(data, sample_rate=24_000)
    assert len(shards["held_out"]) >= 2
    assert {*shards["held_out"].ids} == {clip.name for clip in corpus.held_out}


def test_a_request_without_sense_is_refused(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("tokenize_dataset")
    with pytest.raises(ValueError, match="No data; pass a corpus as --data"):
        run(recipe, tmp_path / "out", preset="default")
    with pytest.raises(ValueError, match="--num-workers must be at least 1, got 0"):
        run(recipe, tmp_path / "out", num_workers=0)
    with pytest.raises(ValueError, match="examples_per_shard must be at least 1, got 0"):
        run(recipe, tmp_path / "out", examples_per_shard=0)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        run(recipe, tmp_path / "out", data=tmp_path / "nowhere")
    (tmp_path / "sounds").mkdir()
    with pytest.raises(ValueError, match="No audio files found in"):
        run(recipe, tmp_path / "out", data=tmp_path / "sounds")
    (tmp_path / "sounds" / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"None of the 1 audio files .* first error: .*bad.wav"):
        run(recipe, tmp_path / "out", data=tmp_path / "sounds")


def test_clips_that_are_all_bad_are_an_error(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("tokenize_dataset")
    corpus = recipe.make_up_corpus(tmp_path / "corpus")
    for path in (corpus / "audio").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"None of the 12 clips of .* see .*skipped.txt"):
        run(recipe, tmp_path / "out", data=corpus)
    assert len((tmp_path / "out" / "skipped.txt").read_text().splitlines()) == 12
