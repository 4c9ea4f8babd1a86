"""Protocols of feature extractors, and helpers that their backends share.

Shapes: B batch, C channels, N samples, T frames, D width.
"""

import copy
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

WINDOW_SECONDS = 20.0


class FeatureExtractor(Protocol):
    """A model whose activations can be clustered into semantic tokens."""

    @property
    def identity(self) -> str:
        """Names the model, its settings and its weights; equal identities give equal features."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def width(self) -> int:
        """D"""

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """Activations after `layer` (0: its input) of samples [B, C, N], float32: [B, T, D]."""


@runtime_checkable
class WindowedFeatureExtractor(FeatureExtractor, Protocol):
    """An extractor that can also return long features in pieces, in constant memory."""

    def feature_windows(self, samples: Tensor, layer: int) -> Iterator[Tensor]:
        """Yields the result of `features` in consecutive pieces along T."""


def first_layers(encoder: nn.Module, num_layers: int, **replaced: nn.Module | None) -> Any:
    """The encoder up to a layer, as a view: weights are shared and `encoder` is not modified.

    Args:
        replaced: other modules of the encoder to replace, such as a normalisation after the layers.
    """
    layers: Any = encoder.layers
    view = copy.copy(encoder)
    view._modules = {**encoder._modules, "layers": layers[:num_layers], **replaced}
    return view


def hop_and_field(kernels: list[int], strides: list[int]) -> tuple[int, int]:
    """The stride and the receptive field of a stack of convolutions, in input steps."""
    hop, field = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field


def num_frames(length: int, *, hop: int, field: int) -> int:
    """Output frames of a stack of convolutions for `length` inputs, at least `field`."""
    return (length - field) // hop + 1
