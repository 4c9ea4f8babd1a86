"""What renderers share: whole calls as a stream, and streams that decode blocks of fixed size.

Shapes: C channels, N samples, K codebooks or latent width, T frames.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from audio_tokenizers.acoustic.streaming import StreamProgress
from lm_audio.renderers.protocol import Renderer

BLOCK_SECONDS = 0.25
_BLOCKS_AT_ONCE = 8


class SampleStream(Protocol):
    """A decoder's stream of batches; `finish` returns what is left.

    A stream whose samples are the same bits however its input is split has a true `is_exact`.
    """

    def push(self, rows: Tensor, /) -> Tensor: ...

    def finish(self) -> Tensor: ...


def block_frames(frame_rate: float) -> int:
    """Frames per decoding step, fixed so that the size of pushes does not change samples."""
    return max(1, round(BLOCK_SECONDS * frame_rate))


def render_whole(renderer: Renderer, values: Tensor, num_samples: int | None) -> Tensor:
    """Turns values [K, T] into samples [C, N], float32, equal to those of the stream.

    Args:
        num_samples: trims the result; None keeps all samples of the T frames.
    """
    stream = renderer.stream()
    samples = torch.cat([stream.push(values), stream.finish()], dim=1)
    if num_samples is not None and not 0 <= num_samples <= samples.shape[1]:
        raise ValueError(
            f"num_samples is {num_samples}, but these {renderer.signal.kind} render to "
            f"{samples.shape[1]} samples."
        )
    return samples[:, :num_samples]


class BlockStream(ABC):
    """Renders in a stream; buffers the values of an incomplete block.

    Args:
        decoder: takes what `_rows` makes of a block.
        block_frames: the size of a block; exact decoders take several blocks at once.
    """

    def __init__(self, renderer: Renderer, decoder: SampleStream, *, block_frames: int) -> None:
        signal = renderer.signal
        self._kind, self._width, self._size = signal.kind, signal.width, block_frames
        self._num_channels = renderer.num_channels
        self._decoder = decoder
        self._at_once = _BLOCKS_AT_ONCE if getattr(decoder, "is_exact", False) else 1
        self._waiting = torch.zeros(signal.width, 0, dtype=signal.dtype)  # [K, T < block]
        self._has_begun = False
        self._progress = StreamProgress()

    @abstractmethod
    def _rows(self, block: Tensor) -> Tensor:
        """A block [K, T] as a batch for the decoder."""

    def push(self, values: Tensor) -> Tensor:
        """Takes the next values [K, T >= 0], returns the samples [C, N >= 0] that are final."""
        if values.ndim != 2 or len(values) != self._width:
            raise ValueError(
                f"Expected {self._kind} of shape [{self._width}, T], got {list(values.shape)}."
            )
        self._progress.advance(values[None])
        values = values.float() if self._kind == "latents" else values
        waiting = torch.cat([self._waiting.to(values.device), values], dim=1)
        whole = waiting.shape[1] // self._size * self._size
        self._waiting = waiting[:, whole:].clone()
        blocks = waiting[:, :whole].split(self._size * self._at_once, dim=1)
        return torch.cat([self._decode(block) for block in blocks], dim=1)

    def finish(self) -> Tensor:
        """Ends the values and returns the remaining samples: [C, N >= 0]."""
        self._progress.end(self._num_channels, torch.float32)
        samples = self._decode(self._waiting)
        if not self._has_begun:
            return samples
        return torch.cat([samples, self._decoder.finish().flatten(0, 1)], dim=1)

    def _decode(self, block: Tensor) -> Tensor:
        if block.shape[1] == 0:
            return torch.zeros(self._num_channels, 0, device=block.device)
        self._has_begun = True
        return self._decoder.push(self._rows(block)).flatten(0, 1)  # [C, N]
