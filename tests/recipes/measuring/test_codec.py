"""Reconstructions measured as signals, and what is said where a package is missing."""

from pathlib import Path

import pytest
import torch

from audio_tokenizers.audio_writer import write_audio
from lm_audio.evaluation.clips import ClipFile
from measuring import codec
from measuring.codec import measure_signals


def clip(path: Path, samples: torch.Tensor) -> ClipFile:
    write_audio(path, samples[None], 16_000)
    return ClipFile(name=path.stem, path=path)


def test_signals_are_compared_in_one_length_and_silence_has_no_pesq(tmp_path: Path) -> None:
    for package in ("pesq", "pystoi"):
        pytest.importorskip(package)
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    noisy = noise + 0.01 * torch.randn(16_000, generator=torch.Generator().manual_seed(1))
    pairs = [
        (clip(tmp_path / "a.wav", noisy[:15_000]), clip(tmp_path / "b.wav", noise)),
        (clip(tmp_path / "c.wav", noisy), clip(tmp_path / "d.wav", torch.zeros(16_000))),
    ]
    rows = {row.metric: row for row in measure_signals(pairs, sample_rate=16_000, speech=True)}
    assert rows["SI-SDR (dB)"].num_items == 2
    assert rows["PESQ"].num_items == 1
    assert rows["PESQ"].note == "without 1 clips that have no speech"
    (one,) = [
        row
        for row in measure_signals(pairs[:1], sample_rate=16_000, speech=False)
        if row.metric == "SI-SDR (dB)"
    ]
    assert one.value == pytest.approx(20.0, abs=0.3)


def test_a_package_that_is_missing_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "find_spec", lambda _: None)
    noise = clip(tmp_path / "a.wav", 0.1 * torch.ones(9000))
    rows = measure_signals([(noise, noise)], sample_rate=16_000, speech=True, visqol_mode="audio")
    reasons = {row.metric: row.note for row in rows if row.value is None}
    assert reasons == {
        "PESQ": "the package pesq is not installed",
        "STOI": "the package pystoi is not installed",
        "ViSQOL": "the package visqol is not installed",
    }
