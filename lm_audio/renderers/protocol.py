"""The renderer interface: turns the last signal of a pipeline into audio.

Encoding, from samples to that signal, is a separate object: a model without one accepts no audio.

Shapes: C channels, N samples, K codebooks or latent width, T frames.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from lm_audio.signals import Signal


class RenderStream(Protocol):
    """Renders values in a stream, in constant memory.

    The samples do not depend on how the values are split between pushes.
    """

    def push(self, values: Tensor) -> Tensor:
        """Adds values [K, T >= 0] and returns newly final samples [C, N >= 0]."""

    def finish(self) -> Tensor:
        """Ends the values and returns the remaining samples: [C, N >= 0]."""


class Encoder(Protocol):
    """Encodes samples as the input signal of a renderer."""

    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at the renderer's rate, into values [K, T]."""

    def prompt_frames(self, num_samples: int) -> int:
        """The number of frames that a prompt of `num_samples` samples fills.

        A partly filled last frame does not count: the stages generate it.
        """


class Renderer(Protocol):
    """Turns values [K, T] of its signal into samples [C, N]."""

    @property
    def signal(self) -> Signal:
        """The input signal."""

    @property
    def encoder(self) -> Encoder | None:
        """The encoder; None if there is none."""

    @property
    def identity(self) -> str:
        """Identifies the renderer, its settings and weights; equal identities render equally."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    @property
    def hop_length(self) -> int:
        """Samples per frame."""

    def num_frames(self, num_samples: int) -> int:
        """The number of frames that cover `num_samples` samples, the last perhaps in part."""

    def stream(self) -> RenderStream: ...

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Turns values [K, T] into samples [C, N], float32, equal to those of the stream.

        Args:
            num_samples: trims the result; by default all samples of the T frames.
        """


@runtime_checkable
class LoopRenderer(Protocol):
    """A renderer that joins the end of a loop to its beginning itself."""

    def render_loop(self, values: Tensor, *, num_samples: int) -> Tensor:
        """Turns values [K, T] into a loop of samples [C, N], float32."""
