"""VGGish: its front end against a naive one, its network against the published layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lm_audio.evaluation.judges.vggish import VGGish, load_vggish, log_mel_patches


def naive_log_mels(samples: np.ndarray) -> np.ndarray:
    """Frame by frame and band by band, as the paper's front end is described: [frames, 64]."""

    def mel(frequency: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(frequency) / 700)

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    edges = np.linspace(mel(125), mel(7500), 66)
    bins = mel(np.arange(257) * 16_000 / 512)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        spectrum = np.abs(np.fft.rfft(samples[start : start + 400] * window, 512))
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            up, down = (bins - low) / (centre - low), (high - bins) / (high - centre)
            weights = np.maximum(0, np.minimum(up, down))
            row.append(np.log(spectrum @ weights + 0.01))
        rows.append(row)
    return np.array(rows)


def test_patches_are_those_of_a_naive_front_end() -> None:
    samples = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0))
    patches = log_mel_patches(samples)
    assert patches.shape == (4, 96, 64)  # 2.5 s: two whole patches a row
    for row in range(2):
        expected = naive_log_mels(samples[row].double().numpy())[:192].reshape(2, 96, 64)
        assert np.allclose(patches[2 * row : 2 * row + 2].numpy(), expected, atol=2e-3)


def test_a_short_clip_is_one_patch() -> None:
    assert log_mel_patches(torch.zeros(1, 100)).shape == (1, 96, 64)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return VGGish().state_dict()


def test_the_layout_is_that_of_the_public_port(weights: dict[str, torch.Tensor]) -> None:
    convolutions = [f"features.{i}.weight" for i in (0, 3, 6, 8, 11, 13)]
    linear = [f"embeddings.{i}.weight" for i in (0, 2, 4)]
    assert [name for name in weights if name.endswith("weight")] == convolutions + linear
    assert weights["features.13.weight"].shape == (512, 512, 3, 3)
    assert weights["embeddings.0.weight"].shape == (4096, 12_288)


def test_weights_are_read_from_both_formats(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file({"embeddings.4.bias": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=r"embeddings.4.bias \(\[1\] instead of \[128\]\)"):
        load_vggish(tmp_path / "wrong.safetensors")
    with pytest.raises(
        ValueError, match=r"File .*nothing.pth not found. Give the weights of VGGish"
    ):
        load_vggish(tmp_path / "nothing.pth")
    equal_rows = {  # one row is stored for all: the file stays small
        name: weights[name][:1].clone().expand_as(weights[name])
        for name in ("embeddings.0.weight", "embeddings.2.weight")
    }
    stored = {**weights, **equal_rows, "pproc.pca_means": torch.zeros(128, 1)}
    torch.save(stored, tmp_path / "vggish.pth")
    network = load_vggish(tmp_path / "vggish.pth")
    samples = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    vectors = network(samples)
    assert vectors.shape == (2, 128)
    assert torch.allclose(vectors[1:], network(samples[1:]), atol=1e-5)
    assert vectors.min() < 0  # before the last ReLU
