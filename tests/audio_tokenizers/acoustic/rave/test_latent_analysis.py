"""The analysis of latents against numpy's, and the quantiser of the leading ones."""

from typing import Any

import numpy as np
import pytest
import torch

from audio_tokenizers.acoustic.rave import RaveCodec, tiny
from audio_tokenizers.acoustic.rave.latent_analysis import (
    add_codebooks,
    analyse_latents,
    describe_latents,
    frames_of,
    num_dims,
)


@pytest.fixture
def codec() -> RaveCodec:
    torch.manual_seed(0)
    return RaveCodec(tiny(), trainable=False).eval().requires_grad_(False)


@pytest.fixture
def sounds() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(16_000) / 8_000
    tones = [torch.sin(2 * torch.pi * 80 * 2**octave * time) for octave in range(5)]
    hiss = 0.05 * torch.randn(5, 16_000, generator=generator)
    return [(tone + noise)[None, None] for tone, noise in zip(tones, hiss, strict=True)]


def test_components_are_those_of_numpy(codec: RaveCodec, sounds: list[torch.Tensor]) -> None:
    raw = torch.cat([frames_of(codec, sound) for sound in sounds]).double().numpy()
    frames = analyse_latents(codec, sounds)
    variances = np.linalg.eigvalsh(np.cov(raw.T))[::-1]
    shares = np.cumsum(variances) / variances.sum()
    np.testing.assert_allclose(codec.fidelity.numpy(), shares, atol=1e-4)
    np.testing.assert_allclose(frames.var(0).numpy(), variances, rtol=1e-2, atol=1e-7)
    assert frames.mean(0).abs().max() < 1e-5
    again = torch.cat([frames_of(codec, sound) for sound in sounds])
    torch.testing.assert_close(again, frames, rtol=1e-3, atol=1e-4)


def test_rotation_changes_no_sound(codec: RaveCodec, sounds: list[torch.Tensor]) -> None:
    before = codec.decode_latents(codec.latents(sounds[0]))
    analyse_latents(codec, sounds)
    after = codec.decode_latents(codec.latents(sounds[0]))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_fidelity_decides_the_number_of_dimensions(codec: RaveCodec) -> None:
    codec.fidelity = torch.tensor([0.5, 0.8, 0.94, 0.96, 0.97, 0.98, 0.99, 1.0])
    assert [num_dims(codec, fidelity=f) for f in (0.1, 0.5, 0.81, 0.95, 1.0)] == [1, 1, 3, 4, 8]
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"fidelity must be above 0 and at most 1, got"):
            num_dims(codec, fidelity=wrong)


def test_more_codebooks_describe_latents_better(
    codec: RaveCodec, sounds: list[torch.Tensor]
) -> None:
    frames = analyse_latents(codec, sounds)
    found = []
    for number in (1, 2, 4):
        report = add_codebooks(codec, frames, fidelity=0.999, num_codebooks=number)
        found.append(report.distortion)
        assert codec.has_codebooks
        assert report.num_dims == codec.config.quantised_dims == codec.codebooks.shape[2]
        assert report.num_frames == len(frames)
    assert 0.9 > found[0] > found[1] > found[2] > 0
    again = describe_latents(codec, frames)
    assert again.distortion == found[2]
    assert f"{report.num_dims} quantised with a relative error of {found[2]:.3f}" in str(again)
    tokens = codec.encode(sounds[0])
    used = [len(level.unique()) for level in tokens[0]]
    assert max(used) > 4


def test_the_same_seed_gives_the_same_codebooks(codec: RaveCodec, sounds: Any) -> None:
    frames = analyse_latents(codec, sounds)
    state = torch.get_rng_state()
    books = []
    for seed in (0, 0, 1):
        add_codebooks(codec, frames, seed=seed)
        books.append(codec.codebooks)
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_single_frame_is_too_few(codec: RaveCodec) -> None:
    with pytest.raises(ValueError, match=r"Got 1 frames to analyse; expected at least 2"):
        analyse_latents(codec, [torch.zeros(1, 1, 100)])
