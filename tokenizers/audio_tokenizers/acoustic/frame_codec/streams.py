"""The frame codec as streams: explicit state, constant memory, the same bits as offline."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec.layers import OVERLAP, overlap_add
from audio_tokenizers.acoustic.inputs import check_samples, check_tokens
from audio_tokenizers.acoustic.streaming import StreamProgress

if TYPE_CHECKING:
    from audio_tokenizers.acoustic.frame_codec.codec import FrameCodec


class FrameEncoderStream:
    """The encoder's state: samples that still wait for their frame, and the stack's tails."""

    gains = None

    def __init__(self, codec: "FrameCodec", *, num_codebooks: int) -> None:
        self.codec, self.num_codebooks = codec, num_codebooks
        self.progress = StreamProgress()
        self.num_samples = 0
        self.samples: Tensor | None = None  # [B, 1, margin + what is in no frame yet]
        self.state: list[Tensor] = []

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """samples: [B, 1, N] -> tokens [B, K, T]"""
        check_samples(samples, num_channels=1, allow_empty=True)
        self.progress.advance(samples)
        self.num_samples += samples.shape[2]
        return self._tokens(self._latents(samples))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The tokens [B, K, T] of the last frames, filled up with silence."""
        end = self.progress.end(1, torch.float32)
        if self.samples is None:
            return end.new_zeros(len(end), self.num_codebooks, 0, dtype=torch.int64)
        encoder = self.codec.encoder
        missing = -self.num_samples % self.codec.hop_length + encoder.margin
        latents = self._latents(self.samples.new_zeros(*self.samples.shape[:2], missing))
        rest = encoder.project(encoder.stack.finish(self.state))
        return self._tokens(torch.cat([latents, rest], dim=1))

    def _latents(self, samples: Tensor) -> Tensor:
        encoder, hop = self.codec.encoder, self.codec.hop_length
        if self.samples is None:
            self.samples = samples.new_zeros(*samples.shape[:2], encoder.margin)
        buffer = torch.cat([self.samples, samples], dim=2)
        T = max(0, (buffer.shape[2] - 2 * encoder.margin) // hop)
        self.samples = buffer[:, :, T * hop :].clone()
        frames = encoder.frames(buffer[:, :, : T * hop + 2 * encoder.margin], T)
        if not self.state:
            self.state = encoder.stack.start(frames)
        h, self.state = encoder.stack(frames, self.state)
        return encoder.project(h)

    def _tokens(self, latents: Tensor) -> Tensor:
        return self.codec.quantize(latents, num_codebooks=self.num_codebooks)


class FrameDecoderStream:
    """The decoder's state: the stack's tails, and windows that overlap with what comes next."""

    def __init__(self, codec: "FrameCodec") -> None:
        self.codec = codec
        self.progress = StreamProgress()
        self.num_spectra = 0
        self.skip = codec.decoder.margin  # samples before the first frame
        self.windows: Tensor | None = None  # [B, OVERLAP - 1, window]
        self.state: list[Tensor] = []

    @torch.no_grad()
    def push(self, tokens: Tensor) -> Tensor:
        """tokens: [B, K, T] -> samples [B, 1, N]"""
        check_tokens(
            tokens,
            num_codebooks=self.codec.num_codebooks,
            codebook_size=self.codec.codebook_size,
            allow_empty=True,
        )
        self.progress.advance(tokens)
        stack = self.codec.decoder.stack
        latents = self.codec.dequantize(tokens)
        if not self.state:
            self.state = stack.start(latents)
        h, self.state = stack(latents, self.state)
        return self._samples(self._new_windows(h))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The samples [B, 1, N] up to the end of the last frame."""
        end = self.progress.end(1, torch.float32)
        if self.windows is None:
            return end
        decoder = self.codec.decoder
        new = self._new_windows(decoder.stack.finish(self.state))
        left = new.shape[1] * decoder.config.spectrum_hop + decoder.margin
        return self._samples(F.pad(new, (0, 0, 0, OVERLAP // 2)))[:, :, :left]

    def _new_windows(self, h: Tensor) -> Tensor:
        decoder = self.codec.decoder
        windows = decoder.windows(*decoder.spectra(h), self.num_spectra)
        self.num_spectra += windows.shape[1]
        return windows

    def _samples(self, new: Tensor) -> Tensor:
        if self.windows is None:
            self.windows = new.new_zeros(new.shape[0], OVERLAP - 1, new.shape[2])
        windows = torch.cat([self.windows, new], dim=1)
        self.windows = windows[:, windows.shape[1] - OVERLAP + 1 :].clone()
        hops = overlap_add(windows, overlap=OVERLAP).flatten(1)[:, None]  # [B, 1, N]
        skipped = min(self.skip, hops.shape[2])
        self.skip -= skipped
        return hops[:, :, skipped:]
