"""Which latent dimensions matter, and a quantiser of those.

A Gaussian model leaves most dimensions at their prior: noise that says nothing about the sound. A
principal component analysis of the latents orders what is left. Tokens describe the first
components by a residual quantiser, fitted by k-means and moving averages; the others get noise.

Shapes: B batch, C channels, N samples, D latent dimensions, n frames.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_tokenizers.acoustic.rave.codec import RaveCodec

FIDELITY = 0.95  # share of the variance that the quantised dimensions hold
PASSES = 8
BATCH_FRAMES = 4096


@dataclass(frozen=True, kw_only=True)
class LatentReport:
    """The analysis of a model's latents.

    fidelity: share of variance in the first 1, 2, ... D dimensions, [D]; num_dims: those that are
    quantised; distortion: mean squared error of the quantised dimensions relative to their
    variance; num_frames: frames analysed.
    """

    fidelity: Tensor
    num_dims: int
    distortion: float
    num_frames: int

    def __str__(self) -> str:
        points = [d for d in (1, 2, 4, 8, 16, 32, 64, 128) if d <= len(self.fidelity)]
        shares = ", ".join(f"{d}: {self.fidelity[d - 1]:.3f}" for d in points)
        return (
            f"share of variance by dimensions {shares}; {self.num_dims} quantised with a relative "
            f"error of {self.distortion:.3f} over {self.num_frames} frames"
        )


@torch.no_grad()
def analyse_latents(codec: RaveCodec, sounds: Iterable[Tensor]) -> Tensor:
    """Rotates a Gaussian model's latents to their principal components; returns frames [n, D].

    Args:
        sounds: samples [B, C, N] each.
    """
    codec.latent_mean = torch.zeros_like(codec.latent_mean)
    codec.latent_pca = torch.eye(len(codec.latent_mean), device=codec.latent_mean.device)
    frames = torch.cat([frames_of(codec, samples) for samples in sounds])
    if len(frames) < 2:
        raise ValueError(f"Got {len(frames)} frames to analyse; expected at least 2.")
    mean = frames.double().mean(0)
    variance, components = _components(frames)
    codec.latent_mean, codec.latent_pca = mean.to(frames), components.to(frames)
    codec.fidelity = (variance.cumsum(0) / variance.sum().clamp(min=1e-12)).to(frames)
    return ((frames.double() - mean) @ components.T).to(frames)


def frames_of(codec: RaveCodec, samples: Tensor) -> Tensor:
    """The latents of samples [B, C, N] as frames [n, D]."""
    return codec.latents(samples).transpose(1, 2).flatten(0, 1)


def num_dims(codec: RaveCodec, *, fidelity: float = FIDELITY) -> int:
    """The least number of leading dimensions that hold this share of the variance."""
    if not 0 < fidelity <= 1:
        raise ValueError(f"fidelity must be above 0 and at most 1, got {fidelity}.")
    return min(len(codec.fidelity), int((codec.fidelity < fidelity).sum()) + 1)


def add_codebooks(
    codec: RaveCodec,
    frames: Tensor,
    *,
    fidelity: float = FIDELITY,
    num_codebooks: int | None = None,
    codebook_size: int | None = None,
    seed: int = 0,
) -> LatentReport:
    """Fits a residual quantiser to the leading dimensions of frames [n, D] of an analysed model."""
    dims = num_dims(codec, fidelity=fidelity)
    leading = frames[:, :dims].contiguous()
    codebooks = _fit(
        leading,
        num_codebooks=num_codebooks or codec.num_codebooks,
        codebook_size=codebook_size or codec.codebook_size,
        seed=seed,
    )
    codec.set_codebooks(codebooks)
    return describe_latents(codec, frames)


@torch.no_grad()
def describe_latents(codec: RaveCodec, frames: Tensor) -> LatentReport:
    """How well a model's codebooks describe frames [n, D] of its latents."""
    dims = codec.config.quantised_dims
    leading = frames[:, :dims]
    tokens = codec.quantize(leading.T[None], num_codebooks=codec.num_codebooks)
    error = codec.dequantize(tokens)[0].T - leading
    spread = (leading - leading.mean(0)).square().sum().clamp(min=1e-12)
    variance = _components(frames)[0]
    return LatentReport(
        fidelity=(variance.cumsum(0) / variance.sum().clamp(min=1e-12)).float().cpu(),
        num_dims=dims,
        distortion=float(error.square().sum() / spread),
        num_frames=len(frames),
    )


def _components(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [D], largest first, and the directions [D, D] of principal components, float64."""
    centred = frames.double() - frames.double().mean(0)
    variance, columns = torch.linalg.eigh(centred.T @ centred / max(1, len(frames) - 1))
    components = columns.flip(1).T
    # A component may point either way: its largest weight is positive.
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return variance.flip(0).clamp(min=0), components * largest.sign()


def _fit(frames: Tensor, *, num_codebooks: int, codebook_size: int, seed: int) -> Tensor:
    """Codebooks [K, V, d] of frames [n, d]."""
    from vector_quantize_pytorch import ResidualVQ

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        quantiser = ResidualVQ(
            dim=frames.shape[1],
            num_quantizers=num_codebooks,
            codebook_size=codebook_size,
            kmeans_init=True,
            sync_kmeans=False,  # of several training processes, one fits
            sync_codebook=False,
            decay=0.9,
            threshold_ema_dead_code=1 if len(frames) > 4 * codebook_size else 0,
        ).to(frames.device)
        quantiser.train()
        for batch in _batches(frames, codebook_size):
            quantiser(batch[None])
    return torch.stack([layer._codebook.embed[0] for layer in quantiser.layers]).detach()


def _batches(frames: Tensor, codebook_size: int) -> Iterator[Tensor]:
    """All frames for the k-means of the first call, then shuffled batches."""
    size = max(BATCH_FRAMES, 8 * codebook_size)
    yield frames[torch.randperm(len(frames))[: 4 * size]]
    for _ in range(PASSES):
        yield from frames[torch.randperm(len(frames))].split(size)
