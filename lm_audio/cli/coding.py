"""The verbs over tokens: encode, decode."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lm_audio.cli.console import progress_bar

if TYPE_CHECKING:
    from audio_tokenizers.protocol import AcousticTokenizer

# What needs torch is imported where it runs, so that --help answers at once.


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode an audio file as tokens."""

    audio: tyro.conf.Positional[Path]
    """Any WAV, FLAC, OGG, Opus or MP3 file."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The tokens: a .safetensors file."""
    codec: str = "default"
    """A name (default, encodec-24khz, dac-44khz, mimi ...), a file, a folder or a hub id."""
    num_codebooks: int | None = None
    """How many codebooks to use, the coarsest first; all by default."""
    cache: Path | None = None
    """A folder of tokens from earlier runs. A file with the same content, codec and number of
    codebooks is not encoded again. No cache by default."""
    device: str = "cpu"
    """Such as cpu, cuda or cuda:1."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info
        from audio_tokenizers.cache import TokenCache
        from audio_tokenizers.coding import encode_file
        from audio_tokenizers.token_file import save_encoded

        seconds = audio_info(self.audio).duration
        codec = load(self.codec, self.device)
        with progress_bar("encoding", seconds) as progress:
            encoded = encode_file(
                self.audio,
                codec,
                codec_name=self.codec,
                num_codebooks=self.num_codebooks,
                device=self.device,
                cache=None if self.cache is None else TokenCache(self.cache),
                progress=progress,
            )
        save_encoded(encoded, self.output)
        K, T = encoded.tokens.shape
        print(f"{self.output}: {encoded.duration:.2f} s as {K} x {T} tokens of {encoded.identity}")


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode tokens to an audio file."""

    tokens: tyro.conf.Positional[Path]
    """A file that `lm-audio encode` wrote."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The suffix says the format: .wav, .flac, .ogg, .opus or .mp3."""
    codec: str | None = None
    """The codec that made the tokens; the one that the file names by default."""
    device: str = "cpu"
    """Such as cpu, cuda or cuda:1."""

    def run(self) -> None:
        from audio_tokenizers.coding import decode_to_file
        from audio_tokenizers.token_file import load_encoded

        encoded = load_encoded(self.tokens)
        try:
            codec = load(self.codec or encoded.codec, self.device)
        except ValueError as error:
            hint = "" if self.codec else " The tokens name it so; give its place with --codec."
            raise ValueError(f"{error}{hint}") from None
        with progress_bar("decoding", encoded.duration) as progress:
            decode_to_file(encoded, codec, self.output, device=self.device, progress=progress)
        print(f"{self.output}: {encoded.duration:.2f} s at {encoded.sample_rate} Hz")


def load(name: str, device: str) -> "AcousticTokenizer":
    """A codec by name, `default` being the one in this package."""
    from audio_tokenizers.acoustic.registry import load_codec
    from lm_audio.loading import find_device
    from lm_audio.pretrained import CODEC_FOLDER

    device = find_device(device)
    # Its retries are no news to a user: what comes of them is one sentence.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.CRITICAL)
    return load_codec(CODEC_FOLDER if name == "default" else name, device=device)
