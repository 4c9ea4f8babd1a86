"""The renderer of latents: its parts against other libraries, its streams against whole calls."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.networks.hifi_gan import HifiGan, HifiGanConfig
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.log_mel import LogMel

HOP, WINDOW, OVERLAP = 8 * 2, 12, 4


def make(
    *, overlap: int = OVERLAP, with_encoder: bool = True, mel_first: bool = False
) -> LatentRenderer:
    torch.manual_seed(0)
    shape = Autoencoder2dConfig(
        channels=1, latent_channels=3, widths=(8, 8), num_blocks=1, attends=(False, False),
        num_groups=4,
    )  # fmt: skip
    voice = HifiGanConfig(
        num_mels=8, sample_rate=1600, width=8, rates=(4, 2), kernels=(9, 4), block_kernels=(3,),
        block_dilations=((1, 3),), normalize=False,
    )  # fmt: skip
    autoencoder, vocoder = Autoencoder2d(shape), HifiGan(voice)
    for module in (autoencoder, vocoder):
        for weight in module.parameters():
            nn.init.normal_(weight, 0.0, 0.3)
        module.requires_grad_(False)
    mel = LogMel(sample_rate=1600, fft_length=64, hop_length=8, num_mels=8, low=0, high=800)
    return LatentRenderer(
        autoencoder=autoencoder,
        vocoder=vocoder,
        scale=0.5,
        window_frames=WINDOW,
        overlap_frames=overlap,
        log_mel=mel if with_encoder else None,
        mel_first=mel_first,
    )


def latents(renderer: LatentRenderer, num_frames: int) -> Tensor:
    torch.manual_seed(num_frames)
    return torch.randn(renderer.signal.width, num_frames)


def streamed(renderer: LatentRenderer, values: Tensor, pieces: Sequence[int]) -> Tensor:
    stream = renderer.stream()
    made = [stream.push(piece) for piece in values.split(list(pieces), dim=1)]
    return torch.cat([*made, stream.finish()], dim=1)


@pytest.mark.parametrize(
    "settings",
    [
        LogMel(sample_rate=16_000, fft_length=1024, hop_length=160, num_mels=64, low=0, high=8000),
        LogMel(
            sample_rate=48_000, fft_length=2048, hop_length=480, num_mels=96, low=20, high=2e4,
            base="10", floor=1e-3,
        ),
    ],
)  # fmt: skip
def test_spectrograms_are_those_of_transformers(settings: LogMel) -> None:
    torch.manual_seed(0)
    samples = torch.randn(1, 20 * settings.hop_length) * 0.1
    left = (settings.fft_length - settings.hop_length) // 2
    padded = np.pad(
        samples[0].numpy(), (left, settings.fft_length - settings.hop_length - left), "reflect"
    )
    bands = mel_filter_bank(
        settings.fft_length // 2 + 1, settings.num_mels, settings.low, settings.high,
        settings.sample_rate, norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    expected = spectrogram(
        padded,
        window_function(settings.fft_length, "hann"),
        frame_length=settings.fft_length,
        hop_length=settings.hop_length,
        power=1.0,
        center=False,
        mel_filters=bands,
        mel_floor=settings.floor,
        log_mel="log" if settings.base == "e" else "log10",
    )
    made = settings(samples)[0]
    assert made.shape == (settings.num_mels, 20)
    np.testing.assert_allclose(made.numpy(), expected, atol=2e-4)


def test_a_sound_shorter_than_a_window_of_the_analysis_has_a_spectrogram() -> None:
    settings = LogMel(sample_rate=1600, fft_length=64, hop_length=8, num_mels=8, low=0, high=800)
    assert settings(torch.ones(1, 3)).shape == (1, 8, 1)
    assert settings(torch.ones(1, 3)).isfinite().all()


@pytest.mark.parametrize("num_frames", [1, 5, WINDOW])
@pytest.mark.parametrize("mel_first", [False, True])
def test_one_window_is_a_plain_decoding(num_frames: int, mel_first: bool) -> None:
    renderer = make(mel_first=mel_first)
    values = latents(renderer, num_frames)
    grid = values.view(1, 3, 4, num_frames)
    image = renderer.autoencoder.decode((grid if mel_first else grid.mT) / 0.5)[:, 0]
    expected = renderer.vocoder(image if mel_first else image.mT)[:, : num_frames * HOP]
    made = renderer.render(values)
    assert made.shape == (1, num_frames * HOP)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_frames", [1, WINDOW - 1, WINDOW, WINDOW + 1, 20, 21, 28, 100])
@pytest.mark.parametrize("overlap", [OVERLAP, 0, WINDOW // 2])
def test_a_stream_gives_the_whole_sound(num_frames: int, overlap: int) -> None:
    renderer = make(overlap=overlap)
    values = latents(renderer, num_frames)
    whole = renderer.render(values)
    assert whole.shape == (1, num_frames * HOP)
    for size in (1, 7, 50):
        count, rest = divmod(num_frames, size)
        made = streamed(renderer, values, [size] * count + [rest] * (rest > 0))
        assert torch.equal(made, whole)


def test_windows_are_cross_faded() -> None:
    renderer = make()
    values = latents(renderer, 20)
    first, second = renderer.to_mel(values[:, :12]), renderer.to_mel(values[:, 8:])
    stream = renderer.stream()
    mel = torch.cat([stream._windows.push(values), stream._windows.finish()], dim=1)
    assert torch.equal(mel[:, :16], first[:, :16])
    assert torch.equal(mel[:, 24:], second[:, 8:])
    share = (torch.arange(8) + 0.5) / 8
    mixed = first[:, 16:] * (1 - share) + second[:, :8] * share
    torch.testing.assert_close(mel[:, 16:24], mixed)


def test_the_last_window_ends_with_the_clip() -> None:
    renderer = make()
    values = latents(renderer, 13)
    stream = renderer.stream()
    mel = torch.cat([stream._windows.push(values), stream._windows.finish()], dim=1)
    last = renderer.to_mel(values[:, 1:])
    assert torch.equal(mel[:, 24:], last[:, 22:])


def test_a_stream_keeps_little() -> None:
    renderer = make()
    stream = renderer.stream()
    values = latents(renderer, 500)
    kept = []
    for piece in values.split(10, dim=1):
        stream.push(piece)
        held = stream._windows._held
        assert held is not None
        kept.append(held.shape[1] + stream._mel.shape[1])
    assert max(kept[10:]) == max(kept[10:30])


@pytest.mark.parametrize("num_samples", [3, 5 * HOP, WINDOW * HOP, 40 * HOP + 1])
@pytest.mark.parametrize("mel_first", [False, True])
def test_samples_become_latents(num_samples: int, mel_first: bool) -> None:
    renderer = make(mel_first=mel_first)
    torch.manual_seed(0)
    samples = 0.1 * torch.randn(1, num_samples)
    encoder = renderer.encoder
    assert encoder is not None
    made = encoder.encode(samples)
    T = renderer.num_frames(num_samples)
    assert made.shape == (renderer.signal.width, T)
    assert encoder.prompt_frames(num_samples) == num_samples // HOP
    if T <= WINDOW:
        assert renderer.log_mel is not None
        padded = nn.functional.pad(samples, (0, -num_samples % HOP))
        mel = renderer.log_mel(padded)[:, None]
        mean, _ = renderer.autoencoder.encode(mel if mel_first else mel.mT)
        expected = 0.5 * (mean if mel_first else mean.mT)[0].flatten(0, 1)
        torch.testing.assert_close(made, expected)


def test_wrong_shapes_are_refused() -> None:
    renderer = make()
    with pytest.raises(ValueError, match=r"Expected latents of shape \[12, T\], got \[11, 4\]"):
        renderer.render(torch.zeros(11, 4))
    with pytest.raises(ValueError, match="num_samples is 100, but these latents render to 64"):
        renderer.render(torch.zeros(12, 4), num_samples=100)
    assert renderer.encoder is not None
    with pytest.raises(ValueError, match=r"Expected samples of shape \[1, N\], got \[2, 9\]"):
        renderer.encoder.encode(torch.zeros(2, 9))
    with pytest.raises(ValueError, match="overlap_frames must be from 0 to half of the window"):
        make(overlap=7)
    assert make(with_encoder=False).encoder is None


def test_the_identity_depends_on_settings_and_weights() -> None:
    assert make().identity == make().identity
    assert make().identity != make(overlap=2).identity
    other = make()
    other.vocoder.conv_post.weight.add_(1)  # type: ignore[union-attr, operator]
    assert other.identity != make().identity
