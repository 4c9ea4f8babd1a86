"""Sound through a model in blocks, for the callback of an audio interface.

Shapes: C channels, N samples, D latent dimensions, T frames.
"""

from collections.abc import Callable
from math import gcd

import torch
from torch import Tensor

from audio_tokenizers.protocol import LatentCodec

Edit = Callable[[Tensor, int], Tensor]
"""Changes latents [1, D, T], given the number of the first frame."""


class LiveStream:
    """Takes blocks and returns blocks of the same size, `latency` samples later.

    Silence is pushed ahead of the first block, so that a frame's look-ahead ends with a block and
    no block waits for the next. After `latency` samples of silence, the output equals that of
    `latents` and `decode_latents` for the same delayed sound.

    Args:
        encoder_delay: samples after a frame's end that its latents depend on.
        decoder_delay: samples before the end of the last frame so far that are not final.
        edit: changes the latents of each frame.
    """

    def __init__(
        self,
        codec: LatentCodec,
        block_size: int,
        *,
        encoder_delay: int,
        decoder_delay: int,
        edit: Edit | None = None,
    ) -> None:
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}.")
        self.block_size = block_size
        self._codec, self._edit = codec, edit
        self._encoder, self._decoder = codec.latent_stream(), codec.sample_stream()
        self._frame = 0
        hop = codec.hop_length
        waiting = hop - gcd(block_size, hop)  # samples of a frame that a block leaves incomplete
        self.latency = encoder_delay + decoder_delay + waiting
        # What is decoded lags by all of it; the silence ahead of the sound is a part.
        self._output = torch.zeros(codec.num_channels, self.latency - encoder_delay)
        self._decode(torch.zeros(codec.num_channels, encoder_delay))

    def push(self, block: Tensor) -> Tensor:
        """Takes samples [C, block_size], returns as many."""
        if block.shape != (self._codec.num_channels, self.block_size):
            raise ValueError(
                f"Got a block of shape {list(block.shape)}; expected "
                f"[{self._codec.num_channels}, {self.block_size}]."
            )
        self._decode(block)
        done, self._output = self._output.split(
            [self.block_size, self._output.shape[1] - self.block_size], dim=1
        )
        return done

    def finish(self) -> Tensor:
        """Ends the sound and returns the last `latency` samples."""
        self._take(self._encoder.finish())
        rest = torch.cat([self._output, self._decoder.finish()[0]], dim=1)
        return rest[:, : self.latency]

    def _decode(self, samples: Tensor) -> None:
        self._take(self._encoder.push(samples[None]))

    def _take(self, latents: Tensor) -> None:
        if self._edit is not None and latents.shape[2]:
            latents = self._edit(latents, self._frame)
        self._frame += latents.shape[2]
        samples = self._decoder.push(latents)[0]
        self._output = torch.cat([self._output, samples], dim=1)
