"""What every renderer promises: the last signal of a pipeline in, sound out.

The way back, from samples to that signal, is another object: a model without one takes no audio.

Shapes: C channels, N samples, K codebooks or latent width, T frames.
"""

from typing import Protocol

from torch import Tensor

from lm_audio.signals import Signal


class RenderStream(Protocol):
    """Renders values piece by piece, in constant memory.

    The samples depend on the values alone, not on the pieces that they came in.
    """

    def push(self, values: Tensor) -> Tensor:
        """Takes the next values [K, T >= 0], returns the samples [C, N >= 0] that are final."""

    def finish(self) -> Tensor:
        """Ends the values and returns the remaining samples: [C, N >= 0]."""


class Encoder(Protocol):
    """Turns samples into the signal that a renderer takes."""

    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at the renderer's rate, into values [K, T]."""

    def prompt_frames(self, num_samples: int) -> int:
        """How many frames a prompt of `num_samples` samples fills.

        A last frame that it fills in part is not kept: the stages make it.
        """


class Renderer(Protocol):
    """Turns values [K, T] of its signal into samples [C, N]."""

    @property
    def signal(self) -> Signal:
        """What it takes."""

    @property
    def encoder(self) -> Encoder | None:
        """The way back; None if there is none."""

    @property
    def identity(self) -> str:
        """Names the renderer, its settings and its weights; equal identities render equally."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    @property
    def hop_length(self) -> int:
        """Samples per frame."""

    def num_frames(self, num_samples: int) -> int:
        """The frames that `num_samples` samples need, the last one perhaps in part."""

    def stream(self) -> RenderStream: ...

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Turns values [K, T] into samples [C, N], float32: those that its stream gives.

        Args:
            num_samples: the length to cut to; all samples of the T frames by default.
        """
