"""Sound as bytes for HTTP: whole files, and WAV and PCM while they are made.

Shapes: C channels, N samples.
"""

from collections.abc import AsyncIterator

from torch import Tensor

from audio_tokenizers.wav_stream import pcm16, wav_header
from lm_audio.clip import Clip
from lm_audio.server.schemas import Format
from lm_audio.system import releases_omp_threads

MEDIA_TYPES: dict[Format, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "pcm": "audio/pcm",
}
STREAMED = {"wav", "pcm"}


@releases_omp_threads
def encoded(clip: Clip, form: Format) -> bytes:
    """A clip as a file, or as 16-bit little-endian samples."""
    return pcm16(clip.samples) if form == "pcm" else clip.encoded(form)


async def streamed(
    pieces: AsyncIterator[Tensor], form: Format, sample_rate: int, num_channels: int
) -> AsyncIterator[bytes]:
    """WAV or PCM of samples [C, N] as they come; those beyond full scale are limited to it."""
    if form == "wav":
        yield wav_header(sample_rate, num_channels)
    async for samples in pieces:
        yield releases_omp_threads(pcm16)(samples)
