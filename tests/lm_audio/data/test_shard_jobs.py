"""Shards hold the tokens of a corpus, whoever makes them, and bad clips stop nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.data.manifest import make_cut, write_cuts, write_shar
from lm_audio.data.shard_jobs import claim_folder, make_shard, plan_jobs, read_report
from lm_audio.data.shards import Shards
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig

RATE = 16_000
SAMPLES_ONLY = TokenizingConfig(sample_rate=RATE, examples_per_shard=3)


def write_corpus(
    folder: Path, *, seconds: list[float], held_out: float = 0.0, **conditions: Any
) -> Path:
    """A corpus of noises named 0, 1 and so on."""
    cuts = []
    for number, duration in enumerate(seconds):
        path = folder / "audio" / f"{number}.flac"
        noise = np.random.default_rng(number).normal(0, 0.1, (1, round(duration * RATE)))
        write_audio(path, torch.from_numpy(noise).float(), RATE)
        known = {"text": [f"noise {number}", "noise"], "tempo": float(number), **conditions}
        cuts.append(make_cut(f"{number}", path, info=audio_info(path), conditions=known))
    write_cuts(folder, cuts, held_out=held_out)
    return folder


def make_all(corpus: Path, out: Path, config: TokenizingConfig) -> list[tuple[str, str]]:
    """Makes all shards and returns what was skipped."""
    tokenizers = Tokenizers(config)
    skipped = []
    for job in plan_jobs(corpus, config):
        skipped += make_shard(job, out, config=config, tokenizers=tokenizers).skipped
    return skipped


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_shards_hold_what_the_tokenizers_make_of_the_files(
    tmp_path: Path, codec_folder: Path, semantic_folder: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.3, 0.7, 0.5, 1.1, 0.2], held_out=0.3)
    config = TokenizingConfig(
        codec=str(codec_folder), semantic=str(semantic_folder), sample_rate=RATE,
        examples_per_shard=2,
    )  # fmt: skip
    assert make_all(corpus, tmp_path / "out", config) == []
    codec, semantic = load_frame_codec(codec_folder), load_feature_tokenizer(semantic_folder)
    found = [*Shards(tmp_path / "out"), *Shards(tmp_path / "out", "held_out")]
    assert sorted(example.id for example in found) == ["0", "1", "2", "3", "4"]
    for example in found:
        path = corpus / "audio" / f"{example.id}.flac"
        clip = read_audio(path, sample_rate=24_000, num_channels=1).samples[None]
        streams = example.streams
        assert torch.equal(streams["acoustic"].long(), codec.encode(clip)[0])
        assert torch.equal(streams["semantic"].long(), semantic.encode(clip)[0])
        assert torch.equal(streams["samples"] / 2**15, read_audio(path).samples)
        assert example.conditions == {
            "text": [f"noise {example.id}", "noise"],
            "tempo": float(example.id),
        }


def test_a_shard_does_not_depend_on_when_it_is_made(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.2] * 8)
    config = replace(SAMPLES_ONLY, num_mixed=2)
    make_all(corpus, tmp_path / "whole", config)
    jobs = plan_jobs(corpus, config)
    assert [len(job.cuts) for job in jobs] == [3, 3, 2]
    for job in reversed(jobs):
        make_shard(job, tmp_path / "parts", config=config, tokenizers=Tokenizers(config))
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")
    make_all(corpus, tmp_path / "other", replace(config, seed=1))
    assert bytes_of(tmp_path / "other") != bytes_of(tmp_path / "whole")


def test_a_shard_is_there_only_with_its_report(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.2])
    (job,) = plan_jobs(corpus, SAMPLES_ONLY)
    assert read_report(tmp_path, job) is None
    report = make_shard(job, tmp_path, config=SAMPLES_ONLY, tokenizers=Tokenizers(SAMPLES_ONLY))
    assert read_report(tmp_path, job) == report
    (tmp_path / "train-00000.safetensors").unlink()
    assert read_report(tmp_path, job) is None


def test_a_shar_gives_the_same_examples_as_its_corpus(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.3, 0.2, 2.5, 0.4, 0.2], held_out=0.3)
    config = replace(SAMPLES_ONLY, max_seconds=1.0)
    make_all(corpus, tmp_path / "out", config)
    shar = write_shar(corpus, cuts_per_shard=2)
    make_all(shar, tmp_path / "from-shar", config)
    for split in ("train", "held_out"):
        expected, found = (
            {example.id: example for example in Shards(tmp_path / folder, split)}
            for folder in ("out", "from-shar")
        )
        assert found.keys() == expected.keys()
        for name, example in expected.items():
            assert found[name].conditions == example.conditions
            assert torch.equal(found[name].streams["samples"], example.streams["samples"])


def test_long_recordings_are_cut_into_equal_parts_without_a_transcript(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[2.5, 0.5], transcript="one two three")
    make_all(corpus, tmp_path / "out", replace(SAMPLES_ONLY, max_seconds=1.0))
    found = {example.id: example for example in Shards(tmp_path / "out")}
    assert sorted(found) == ["0@0.00", "0@0.83", "0@1.67", "1"]
    assert "transcript" in found["1"].conditions
    assert found["0@0.83"].conditions == {"text": ["noise 0", "noise"], "tempo": 0.0}
    parts = [found[name].streams["samples"] for name in sorted(found)[:3]]
    whole = read_audio(corpus / "audio" / "0.flac").samples
    assert torch.equal(torch.cat(parts, dim=1) / 2**15, whole)


def test_mixtures_are_of_two_clips_and_for_training_alone(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[1.0] * 6, held_out=0.4)
    config = replace(SAMPLES_ONLY, num_mixed=2, max_seconds=1.2, examples_per_shard=10)
    make_all(corpus, tmp_path / "out", config)
    shards = Shards(tmp_path / "out")
    plain = {example.id: example for example in shards if "+" not in example.id}
    mixed = [example for example in shards if "+" in example.id]
    assert len(mixed) == 2 * len(plain)
    assert all("+" not in example.id for example in Shards(tmp_path / "out", "held_out"))
    for example in mixed:
        first, second = example.id.split("#")[0].split("+")
        assert first != second
        assert any(f"noise {first}" in text for text in example.conditions["text"])
        assert "tempo" not in example.conditions
        samples = example.streams["samples"].double()
        assert RATE <= samples.shape[1] <= 1.2 * RATE
        for name in (first, second):
            clip = plain[name].streams["samples"].double()[0]
            matches = [(clip @ part) for part in samples[0].unfold(0, RATE, 1)]
            assert max(matches) > 0.3 * clip.norm() * samples.norm()
    assert len({example.id for example in mixed}) == len(mixed)


def test_passages_are_clips_of_one_speaker_one_after_another(tmp_path: Path) -> None:
    cuts = []
    silence = torch.zeros(1, RATE)
    for number, (speaker, duration) in enumerate(
        [("ann", 0.5), ("ann", 0.7), ("bob", 0.4), ("ann", 0.6), ("bob", 1.5), (None, 2.0)]
    ):
        path = tmp_path / "audio" / f"{number}.flac"
        sound = 0.3 * torch.randn(1, round(duration * RATE)).sign()
        write_audio(path, torch.cat([silence, sound, silence], dim=1), RATE)
        known: dict[str, Any] = {
            "text": [f"a voice says {number}", f"a {speaker} voice"],
            "transcript": str(number),
            "label": "speech",
        } | ({} if speaker is None else {"speaker": speaker})
        cuts.append(make_cut(f"{number}", path, info=audio_info(path), conditions=known))
    write_cuts(tmp_path, cuts, held_out=0.0)
    config = replace(SAMPLES_ONLY, examples_per_shard=10)
    make_all(tmp_path, tmp_path / "plain", config)
    plain = {example.id: example.streams["samples"] for example in Shards(tmp_path / "plain")}
    make_all(tmp_path, tmp_path / "out", replace(config, passage_seconds=5.0))
    found = {example.id: example for example in Shards(tmp_path / "out")}
    assert sorted(part for name in found for part in name.split("+")) == sorted(plain)
    assert "5" in found
    passages = [example for name, example in found.items() if "+" in name]
    assert {example.conditions["speaker"] for example in passages} == {"ann", "bob"}
    pause = round(0.3 * RATE)
    for example in passages:
        parts = [plain[name][:, RATE:-RATE] for name in example.id.split("+")]
        edge = torch.zeros(1, pause // 2, dtype=parts[0].dtype)
        expected = torch.cat([torch.cat([edge, part, edge], dim=1) for part in parts], dim=1)
        assert torch.equal(example.streams["samples"], expected)
        speaker = example.conditions["speaker"]
        common = {"text": [f"a {speaker} voice"], "label": "speech", "speaker": speaker}
        assert example.conditions == common


def test_a_passage_is_of_those_that_can_be_read(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.5] * 4, speaker="ann")
    (corpus / "audio" / "1.flac").write_bytes(b"no sound")
    config = replace(SAMPLES_ONLY, passage_seconds=2.0, examples_per_shard=4)
    skipped = dict(make_all(corpus, tmp_path / "out", config))
    assert list(skipped) == ["1"]
    (example,) = Shards(tmp_path / "out")
    assert sorted(example.id.split("+")) == ["0", "2", "3"]
    assert 1.4 * RATE < example.streams["samples"].shape[1] <= 1.5 * RATE


def test_clips_to_train_on_are_filled_and_others_stay(tmp_path: Path) -> None:
    cuts = []
    for number in range(4):
        path = tmp_path / "audio" / f"{number}.flac"
        sound = torch.cat([0.3 * torch.randn(1, RATE).sign(), torch.zeros(1, RATE)], dim=1)
        write_audio(path, sound, RATE)
        cuts.append(make_cut(f"{number}", path, info=audio_info(path), conditions={}))
    write_cuts(tmp_path, cuts, held_out=0.4)
    config = replace(SAMPLES_ONLY, fill_seconds=5.0, num_mixed=1, examples_per_shard=10)
    make_all(tmp_path, tmp_path / "out", config)
    known, held_out = Shards(tmp_path / "out"), Shards(tmp_path / "out", "held_out")
    assert {example.streams["samples"].shape[1] for example in held_out} == {2 * RATE}
    for example in known:
        samples = example.streams["samples"]
        assert samples.shape[1] >= 5 * RATE
        assert samples[:, -RATE:].any()
    make_all(tmp_path, tmp_path / "again", config)
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "out")


def test_what_cannot_be_used_is_skipped_with_its_reason(
    tmp_path: Path, semantic_folder: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.5] * 4)
    (corpus / "audio" / "0.flac").write_bytes(b"no sound")
    (corpus / "audio" / "1.flac").unlink()
    config = TokenizingConfig(semantic=str(semantic_folder), num_mixed=1)
    skipped = dict(make_all(corpus, tmp_path / "out", config))
    assert "is not an audio file" in skipped["0"]
    assert "No such file" in skipped["1"]
    found = [example.id for example in Shards(tmp_path / "out")]
    assert sorted(found) == ["2", "2+3#0", "3", "3+2#0"]


def test_a_shard_of_nothing_is_reported_and_not_written(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.5])
    (corpus / "audio" / "0.flac").unlink()
    assert len(make_all(corpus, tmp_path / "out", SAMPLES_ONLY)) == 1
    assert list(bytes_of(tmp_path / "out")) == ["done/train-00000.json"]
    (job,) = plan_jobs(corpus, SAMPLES_ONLY)
    assert read_report(tmp_path / "out", job) is not None


def test_samples_beyond_full_scale_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "loud.wav"
    write_audio(path, torch.tensor([[0.5, 1.5] * 4_000]), RATE, encoding="float")
    cut = make_cut("loud", path, info=audio_info(path), conditions={})
    write_cuts(tmp_path / "corpus", [cut])
    (job,) = plan_jobs(tmp_path / "corpus", SAMPLES_ONLY)
    report = make_shard(job, tmp_path, config=SAMPLES_ONLY, tokenizers=Tokenizers(SAMPLES_ONLY))
    assert report.num_clipped == 1


def test_a_folder_refuses_shards_of_other_settings_or_clips(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", seconds=[0.2] * 4)

    def claim(corpus: Path, config: TokenizingConfig) -> None:
        streams, jobs = Tokenizers(config).streams, plan_jobs(corpus, config)
        claim_folder(tmp_path / "out", config=config, streams=streams, jobs=jobs)

    claim(corpus, SAMPLES_ONLY)
    claim(corpus.rename(tmp_path / "moved"), SAMPLES_ONLY)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["seed"] == 0
    with pytest.raises(ValueError, match=r"with the seed 0, not 3. Choose another folder"):
        claim(tmp_path / "moved", replace(SAMPLES_ONLY, seed=3))
    with pytest.raises(ValueError, match=r"samples tokenizer pcm16-16000, not pcm16-8000"):
        claim(tmp_path / "moved", replace(SAMPLES_ONLY, sample_rate=8_000))
    other = write_corpus(tmp_path / "other", seconds=[0.2] * 4, label="hiss")
    with pytest.raises(ValueError, match=r"with the corpus [0-9a-f]+, not [0-9a-f]+. Choose"):
        claim(other, SAMPLES_ONLY)
