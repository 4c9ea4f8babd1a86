"""YAMNet and DNSMOS: their windows, and what is said where they are not installed."""

import sys
from pathlib import Path

import pytest
import torch

from lm_audio.evaluation.judges.dnsmos import WINDOW, Dnsmos, rating_windows
from lm_audio.evaluation.judges.yamnet import YamNet


def test_ratings_see_windows_a_second_apart_of_whole_seconds() -> None:
    samples = torch.arange(12 * 16_000.0)
    windows = rating_windows(samples)
    assert windows.shape == (3, WINDOW)
    assert windows[2, 0] == 32_000
    assert len(rating_windows(samples[: WINDOW + 5])) == 1
    short = rating_windows(samples[:40_000])  # doubled twice
    assert short.shape == (1, WINDOW)
    assert torch.equal(short[0, 40_000:80_000], samples[:40_000])
    with pytest.raises(ValueError, match="cannot rate a clip without samples"):
        rating_windows(samples[:0])


def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "network"
    network.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ValueError, match="Install it with: pip install onnxruntime"):
        Dnsmos(network)
    with pytest.raises(ValueError, match="Install it with: pip install ai-edge-litert"):
        YamNet(network)
    with pytest.raises(ValueError, match=r"File .*nothing not found. Give sig_bak_ovr.onnx"):
        Dnsmos(tmp_path / "nothing")
