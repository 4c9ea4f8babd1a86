"""The frame codec as streams: explicit state, constant memory, the same bits as offline."""

from collections.abc import Callable

import torch
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec.bands import Bands
from audio_tokenizers.acoustic.frame_codec.networks import Decoder, Encoder
from audio_tokenizers.acoustic.frame_codec.phases import PhaseStream
from audio_tokenizers.acoustic.inputs import check_samples, check_tokens
from audio_tokenizers.acoustic.streaming import StreamProgress


class FrameEncoderStream:
    """The encoder's state: samples of incomplete frames, and the tails of the layers.

    Args:
        quantize: latents [B, T, D] to tokens [B, K, T].
        num_codebooks: K.
    """

    gains = None

    def __init__(
        self,
        bands: Bands,
        encoder: Encoder,
        quantize: Callable[[Tensor], Tensor],
        *,
        hop_length: int,
        num_codebooks: int,
    ) -> None:
        self.bands, self.encoder, self.quantize = bands, encoder, quantize
        self.hop_length, self.num_codebooks = hop_length, num_codebooks
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
        return self.quantize(self._latents(samples))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The tokens [B, K, T] of the last frames, padded with silence."""
        end = self.progress.end(1, torch.float32)
        if self.samples is None:
            return end.new_zeros(len(end), self.num_codebooks, 0, dtype=torch.int64)
        missing = -self.num_samples % self.hop_length + self.bands.margin
        latents = self._latents(self.samples.new_zeros(*self.samples.shape[:2], missing))
        rest = self.encoder.project(self.encoder.stack.finish(self.state))
        return self.quantize(torch.cat([latents, rest], dim=1))

    def _latents(self, samples: Tensor) -> Tensor:
        encoder, bands, hop = self.encoder, self.bands, self.hop_length
        if self.samples is None:
            self.samples = samples.new_zeros(*samples.shape[:2], bands.margin)
        buffer = torch.cat([self.samples, samples], dim=2)
        T = max(0, (buffer.shape[2] - 2 * bands.margin) // hop)
        self.samples = buffer[:, :, T * hop :].clone()
        if T == 0:  # an empty FFT is an error
            frames = buffer.new_zeros(buffer.shape[0], 0, encoder.stack.in_width)
        else:
            known = buffer[:, 0, : T * hop + 2 * bands.margin]
            frames = encoder.frames(bands.levels(bands.spectra(known)))
        if not self.state:
            self.state = encoder.stack.start(frames)
        h, self.state = encoder.stack(frames, self.state)
        return encoder.project(h)


class FrameDecoderStream:
    """The decoder's state: the tails of the layers, and hops whose phases are not final.

    Args:
        dequantize: tokens [B, K, T] to latents [B, T, D].
    """

    is_exact = True
    """On a CPU, the same bits however the input is split."""

    def __init__(
        self,
        bands: Bands,
        decoder: Decoder,
        dequantize: Callable[[Tensor], Tensor],
        *,
        num_codebooks: int,
        codebook_size: int,
        phase_iterations: int,
    ) -> None:
        self.bands, self.decoder, self.dequantize = bands, decoder, dequantize
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.progress = StreamProgress()
        self.num_spectra = 0
        self.num_samples = 0
        self.skip = bands.margin  # samples before the first frame
        self.state: list[Tensor] = []
        self.phases = PhaseStream(bands.window, iterations=phase_iterations)

    @torch.no_grad()
    def push(self, tokens: Tensor) -> Tensor:
        """tokens: [B, K, T] -> samples [B, 1, N]"""
        check_tokens(
            tokens,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            allow_empty=True,
        )
        self.progress.advance(tokens)
        return self._decode(self.dequantize(tokens))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The samples [B, 1, N] up to the end of the last frame."""
        end = self.progress.end(1, torch.float32)
        if not self.state:
            return end
        hops = self._hops(self.decoder.stack.finish(self.state))
        left = self.num_spectra * self.phases.hop - self.num_samples
        return self._samples(torch.cat([hops, self.phases.finish()], dim=1))[:, :, :left]

    def _decode(self, latents: Tensor) -> Tensor:
        """latents: [B, T, D] -> samples [B, 1, N]"""
        stack = self.decoder.stack
        if not self.state:
            self.state = stack.start(latents)
        h, self.state = stack(latents, self.state)
        return self._samples(self._hops(h))

    def _hops(self, h: Tensor) -> Tensor:
        bands, predicted = self.bands, self.decoder.bands(h)
        num_spectra = predicted[0].shape[1]
        noise = bands.noise(first=self.num_spectra, num_spectra=num_spectra)
        self.num_spectra += num_spectra
        return self.phases.push(bands.magnitudes(*predicted, noise), noise)

    def _samples(self, hops: Tensor) -> Tensor:
        """Hops [B, J, hop] -> samples [B, 1, N] without those before the first frame."""
        samples = hops.flatten(1)[:, None]
        skipped = min(self.skip, samples.shape[2])
        self.skip -= skipped
        self.num_samples += samples.shape[2] - skipped
        return samples[:, :, skipped:]


class FrameLatentStream(FrameEncoderStream):
    """Samples [B, 1, N] to latents [B, D, T], before quantisation."""

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The latents [B, D, T] of the last frames, padded with silence."""
        return super().finish().float()  # an empty stream ends with empty tokens


class FrameSampleStream(FrameDecoderStream):
    """Latents [B, D, T] to samples [B, 1, N]."""

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        check_latents(latents, latent_size=self.decoder.stack.in_width)
        self.progress.advance(latents)
        return self._decode(latents.transpose(1, 2))


def check_latents(latents: Tensor, *, latent_size: int) -> None:
    """Raises unless latents are [B, D, T], float32, T perhaps 0."""
    if latents.ndim != 3 or latents.shape[1] != latent_size or len(latents) == 0:
        raise ValueError(
            f"Got latents of shape {list(latents.shape)}; expected [B, {latent_size}, T]."
        )
    if latents.dtype != torch.float32:
        raise ValueError(f"Got latents of type {latents.dtype}; expected torch.float32.")
