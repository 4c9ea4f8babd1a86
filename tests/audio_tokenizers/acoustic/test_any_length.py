"""Waveforms of any length, in batches of any size, through every codec."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import DacModel, EncodecModel, MimiModel

from audio_tokenizers.acoustic.dac import DacTokenizer
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.mimi import MimiTokenizer
from audio_tokenizers.protocol import AcousticTokenizer

NAMES = [
    "encodec-24k-mono", "encodec-24k-stereo", "encodec-48k-stereo", "encodec-32k-mono",
    "encodec-32k-stereo", "dac-mono", "mimi-mono", "mimi-stereo",
]  # fmt: skip


@pytest.fixture(scope="module")
def codecs(
    make_encodec: Callable[..., EncodecModel],
    make_dac: Callable[..., DacModel],
    make_mimi: Callable[..., MimiModel],
) -> dict[str, AcousticTokenizer]:
    # Small codebooks: among many entries some frame would be a tie but for rounding, and batches
    # round in their own way.
    made: dict[str, AcousticTokenizer] = {}
    for name in NAMES[:-3]:
        _, kind, layout = name.split("-")
        bandwidth = {"24k": 1.8, "48k": 3.6, "32k": 1.2}[kind]  # 4 books
        books = {"codebook_size": 64, "target_bandwidths": [bandwidth]}
        channels = 2 if layout == "stereo" else 1
        made[name] = EncodecTokenizer(make_encodec(kind, audio_channels=channels, **books))
    for channels, layout in ((1, "mono"), (2, "stereo")):
        mimi = make_mimi(num_filters=2, audio_channels=channels, codebook_size=64, num_quantizers=4)
        made[f"mimi-{layout}"] = MimiTokenizer(mimi)
    dac = make_dac(16_000, encoder_hidden_size=2, codebook_size=64, n_codebooks=4)
    with torch.no_grad():
        dac.decoder.conv2.weight.mul_(0.1)  # or most of its samples would be full scale
    return made | {"dac-mono": DacTokenizer(dac)}


@pytest.mark.parametrize("name", NAMES)
@given(num_samples=st.integers(1, 100_000), batch=st.integers(1, 3))
@example(num_samples=1, batch=3)
@example(num_samples=100_000, batch=2)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_batch_of_any_length_is_restored_and_coded_as_its_waveforms(
    codecs: dict[str, AcousticTokenizer], name: str, num_samples: int, batch: int
) -> None:
    codec = codecs[name]
    generator = torch.Generator().manual_seed(num_samples)
    shape = (batch, codec.num_channels, num_samples)
    samples = 0.3 * torch.randn(shape, generator=generator)
    tokens, gains = codec.encode(samples), codec.gains(samples)
    assert codec.num_channels == (2 if name.endswith("stereo") else 1)
    assert tokens.shape[:2] == (batch, codec.num_codebooks)
    least = -(-num_samples // codec.hop_length)
    assert tokens.shape[2] == least or "48k" in name  # whose chunks overlap
    decoded = codec.decode(tokens, num_samples=num_samples, gains=gains)
    assert decoded.shape == samples.shape
    assert decoded.isfinite().all()

    for i in range(batch):
        single = samples[i : i + 1]
        gain = codec.gains(single)
        assert torch.equal(codec.encode(single), tokens[i : i + 1])
        if gains is not None:
            torch.testing.assert_close(gain, gains[i : i + 1], rtol=1e-6, atol=0)
        alone = codec.decode(tokens[i : i + 1], num_samples=num_samples, gains=gain)
        # Relative to a peak beyond full scale. Measured: up to 3e-6.
        limit = 1e-5 * max(1, decoded.abs().max().item())
        torch.testing.assert_close(alone, decoded[i : i + 1], rtol=0, atol=limit)
