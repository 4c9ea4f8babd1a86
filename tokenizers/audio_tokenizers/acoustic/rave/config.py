"""Settings of RAVE models, and the published shapes.

Widths follow Caillon and Esling, arXiv 2111.05011, and the released configurations of version 2.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

DILATIONS = ((1, 3, 9), (1, 3, 9), (1, 3, 9), (1, 3))
Bottleneck = Literal["gaussian", "discrete"]


@dataclass(frozen=True, kw_only=True)
class RaveConfig:
    sample_rate: int = 48_000
    num_channels: int = 1
    num_bands: int = 16
    capacity: int = 96
    """Width of the first layer; each ratio doubles it."""
    ratios: tuple[int, ...] = (4, 4, 4, 2)
    dilations: tuple[tuple[int, ...], ...] = DILATIONS
    """Dilations of the residual units before each ratio."""
    latent_size: int = 128
    causal: bool = False
    bottleneck: Bottleneck = "gaussian"
    """"gaussian": a variational autoencoder; "discrete": a residual quantiser trained with it."""
    num_codebooks: int = 8
    codebook_size: int = 1024
    quantised_dims: int = 0
    """Leading latent dimensions that tokens describe; 0 before a Gaussian model is analysed."""
    noise_amplitudes: int = 0
    """Frequencies per band of the noise synthesiser; 0 for none."""
    noise_ratios: tuple[int, ...] = (4, 4, 4)
    """Their product is the length in band samples of a frame of noise."""
    noise_channels: int = 0
    """Channels of white noise beside the decoder's latents."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))  # JSON has lists
        object.__setattr__(self, "noise_ratios", tuple(self.noise_ratios))
        object.__setattr__(self, "dilations", tuple(map(tuple, self.dilations)))
        if not 1 <= self.num_channels <= 2:
            raise ValueError(f"num_channels must be 1 or 2, got {self.num_channels}.")
        if self.bottleneck not in ("gaussian", "discrete"):
            raise ValueError(f"bottleneck must be gaussian or discrete, got {self.bottleneck!r}.")
        if not self.ratios or any(ratio < 2 or ratio % 2 for ratio in self.ratios):
            raise ValueError(f"ratios must be even numbers of at least 2, got {self.ratios}.")
        if len(self.dilations) != len(self.ratios):
            raise ValueError(
                f"Expected the dilations of {len(self.ratios)} ratios, got {len(self.dilations)}."
            )
        if self.noise_amplitudes == 1 or self.noise_amplitudes < 0:
            raise ValueError(
                f"noise_amplitudes must be 0 or at least 2, got {self.noise_amplitudes}."
            )
        if self.noise_amplitudes and self.frame_rows % prod(self.noise_ratios):
            raise ValueError(
                f"The product of noise_ratios {self.noise_ratios} must divide {self.frame_rows}, "
                "the product of ratios."
            )
        if not 0 <= self.quantised_dims <= self.latent_size:
            raise ValueError(
                f"quantised_dims must be between 0 and latent_size = {self.latent_size}, got "
                f"{self.quantised_dims}."
            )

    @property
    def frame_rows(self) -> int:
        """Samples of a band per frame."""
        return prod(self.ratios)

    @property
    def hop_length(self) -> int:
        return self.num_bands * self.frame_rows

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths before the first ratio and after each."""
        return tuple(self.capacity * 2**i for i in range(len(self.ratios) + 1))


def v2(**changes: Any) -> RaveConfig:
    """Version 2: 31.5 million weights, 23.4 frames per second at 48 kHz."""
    return replace(RaveConfig(), **changes)


def v2_small(**changes: Any) -> RaveConfig:
    """A quarter of the weights, 93.8 frames per second at 48 kHz, with a noise synthesiser."""
    small = RaveConfig(
        capacity=48, ratios=(4, 2, 2, 2), noise_amplitudes=32, noise_ratios=(4, 4, 2)
    )
    return replace(small, **changes)


def causal(**changes: Any) -> RaveConfig:
    """Version 2 without look-ahead, for live use."""
    return v2(causal=True, **changes)


def discrete(**changes: Any) -> RaveConfig:
    """Version 2 with a residual quantiser: 46.9 frames per second of 16 tokens, 7.5 kb/s."""
    return v2(
        ratios=(4, 4, 2, 2),
        bottleneck="discrete",
        num_codebooks=16,
        quantised_dims=128,
        noise_channels=128,
        **changes,
    )


def tiny(**changes: Any) -> RaveConfig:
    """A tiny config for tests and first runs of a recipe: 8 kHz, 62.5 frames per second."""
    small = RaveConfig(
        sample_rate=8_000,
        num_bands=8,
        capacity=8,
        ratios=(4, 4),
        dilations=((1, 3), (1,)),
        latent_size=8,
        num_codebooks=4,
        codebook_size=32,
        noise_amplitudes=5,
        noise_ratios=(4, 2),
    )
    return replace(small, **changes)


VARIANTS = {"v2": v2, "v2_small": v2_small, "causal": causal, "discrete": discrete, "tiny": tiny}
