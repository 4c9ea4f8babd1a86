"""Encodes and decodes audio with a codec, or sends it through its latents, in constant memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from audio_tokenizers.audio_files import stream_audio
from audio_tokenizers.audio_writer import AudioWriter, Encoding
from audio_tokenizers.cache import TokenCache
from audio_tokenizers.containers import BinarySource
from audio_tokenizers.protocol import AcousticTokenizer, LatentCodec
from audio_tokenizers.token_file import EncodedAudio

Edit = Callable[[Tensor, int], Tensor]
"""Changes latents [1, D, T], given the number of the first frame."""

Progress = Callable[[float], None]
"""Called with the number of seconds of audio done since the last call."""


@torch.no_grad()
def encode_file(
    path: str | Path | BinarySource,
    codec: AcousticTokenizer,
    *,
    codec_name: str,
    num_codebooks: int | None = None,
    device: str = "cpu",
    cache: TokenCache | None = None,
    progress: Progress | None = None,
) -> EncodedAudio:
    """Encodes an audio file of any length, sample rate and number of channels.

    Args:
        cache: reuse the tokens of a file with the same bytes, and store new ones.
    """
    identity = codec.identity

    def encode() -> dict[str, Tensor]:
        return _encode(path, codec, num_codebooks=num_codebooks, device=device, progress=progress)

    if cache is None:
        stored = encode()
    else:
        with Path(path).open("rb") if isinstance(path, str | Path) else nullcontext(path) as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        stored = cache.get(["file", digest, identity, num_codebooks or codec.num_codebooks], encode)
    return EncodedAudio(
        tokens=stored["tokens"],
        gains=stored.get("gains"),
        num_samples=int(stored["num_samples"]),
        sample_rate=codec.sample_rate,
        codec=codec_name,
        identity=identity,
    )


def _encode(
    path: str | Path | BinarySource,
    codec: AcousticTokenizer,
    *,
    num_codebooks: int | None,
    device: str,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """tokens [K, T], int64; num_samples []; gains [chunks] if the codec normalises its input."""
    stream = codec.encoder_stream(num_codebooks=num_codebooks)
    pieces, num_samples = [], 0
    for samples in stream_audio(path, sample_rate=codec.sample_rate):
        if samples.shape[0] != codec.num_channels:  # e.g. surround sound: downmix, then repeat
            samples = samples.mean(0, keepdim=True).expand(codec.num_channels, -1)
        pieces.append(stream.push(samples[None].to(device)).cpu().to(torch.int32))
        num_samples += samples.shape[1]
        if progress is not None:
            progress(samples.shape[1] / codec.sample_rate)
    pieces.append(stream.finish().cpu().to(torch.int32))
    encoded = {
        "tokens": torch.cat(pieces, dim=2)[0].long(),
        "num_samples": torch.tensor(num_samples),
    }
    if stream.gains is not None:
        encoded["gains"] = stream.gains[0].cpu()
    return encoded


@torch.no_grad()
def decode_to_file(
    encoded: EncodedAudio,
    codec: AcousticTokenizer,
    path: str | Path,
    *,
    encoding: Encoding | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Decodes tokens of any length to an audio file, with the length of the original.

    Raises ValueError for tokens from another codec, which would decode to noise.
    """
    if encoded.identity != codec.identity:
        raise ValueError(
            f"These tokens come from {encoded.identity}, but this codec is {codec.identity}; "
            "load the codec that encoded them."
        )
    gains = None if encoded.gains is None else encoded.gains[None].to(device)
    stream = codec.decoder_stream(gains=gains)
    left = encoded.num_samples
    frames = max(1, round(10 * codec.frame_rate))
    with AudioWriter(
        path, codec.sample_rate, num_channels=codec.num_channels, encoding=encoding
    ) as writer:
        for tokens in [*encoded.tokens[None].split(frames, dim=2), None]:
            samples = stream.finish() if tokens is None else stream.push(tokens.to(device))
            samples = samples[0, :, :left].cpu()
            if samples.shape[1]:
                writer.write(samples)
            left -= samples.shape[1]
            if progress is not None:
                progress(samples.shape[1] / codec.sample_rate)
        if left:
            raise ValueError(
                f"These {encoded.tokens.shape[1]} frames hold {left} samples less than the "
                f"{encoded.num_samples} that their header states; encode the audio again."
            )


def transfer(
    pieces: Iterable[Tensor], codec: LatentCodec, *, edit: Edit | None = None, device: str = "cpu"
) -> Iterator[Tensor]:
    """Samples [C, N] in pieces, as the codec's model plays them: as many samples, in pieces.

    The channels are mixed or repeated to those of the codec.
    """
    encoder, decoder = codec.latent_stream(), codec.sample_stream()
    num_in, num_out, num_frames = 0, 0, 0

    def decoded(latents: Tensor) -> Tensor:
        nonlocal num_frames
        changed = latents if edit is None or latents.shape[2] == 0 else edit(latents, num_frames)
        num_frames += latents.shape[2]
        return decoder.push(changed)

    for piece in pieces:
        samples = piece
        if len(piece) != codec.num_channels:
            samples = piece.mean(0, keepdim=True).expand(codec.num_channels, -1)
        num_in += samples.shape[1]
        made = decoded(encoder.push(samples[None].to(device)))[0].cpu()
        num_out += made.shape[1]
        if made.shape[1]:
            yield made
    if num_in:
        rest = torch.cat([decoded(encoder.finish()), decoder.finish()], dim=2)[0].cpu()
        yield rest[:, : num_in - num_out]
