"""What every renderer promises: the last tokens of a pipeline in, sound out.

The codec's decoder is the first renderer; nothing upstream may assume that it is the only one.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from typing import Protocol

from torch import Tensor


class RenderStream(Protocol):
    """Renders tokens piece by piece, in constant memory.

    The samples depend on the tokens alone, not on the pieces that they came in.
    """

    def push(self, tokens: Tensor) -> Tensor:
        """Takes the next tokens [K, T >= 0], returns the samples [C, N >= 0] that are final."""

    def finish(self) -> Tensor:
        """Ends the tokens and returns the remaining samples: [C, N >= 0]."""


class Renderer(Protocol):
    """Turns tokens [K, T] into samples [C, N]."""

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

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_codebooks(self) -> int:
        """The K of the tokens that it takes, those of all channels."""

    @property
    def codebook_size(self) -> int: ...

    def num_frames(self, num_samples: int) -> int:
        """The frames that `num_samples` samples need, the last one perhaps in part."""

    def prompt_frames(self, num_samples: int) -> int:
        """How many frames a prompt of `num_samples` samples fills.

        A last frame that it fills in part is not kept: a language model makes it anew.
        """

    def stream(self) -> RenderStream: ...

    def render(self, tokens: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Turns tokens [K, T] into samples [C, N], float32: those that its stream gives.

        Args:
            num_samples: the length to cut to; all samples of the T frames by default.
        """

    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at `sample_rate`, into tokens [K, T], int64.

        Raises ValueError if this renderer goes one way only.
        """
