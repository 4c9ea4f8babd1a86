"""The verbs over tokens: encode, decode."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from lm_audio.cli.arguments import Arg
from lm_audio.cli.console import progress_bar, quiet_libraries
from lm_audio.cli.inputs import audio_source, conversion
from lm_audio.cli.outputs import check_suffix, check_writable, writing

if TYPE_CHECKING:
    from audio_tokenizers.protocol import AcousticTokenizer

# What needs torch is imported where it runs, so that --help and checks are fast.

TOKENS = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode an audio file into tokens."""

    EXAMPLES: ClassVar = (
        "lm-audio encode song.wav -o song.safetensors",
        "lm-audio encode song.wav -o song.safetensors --codec encodec-24khz --num-codebooks 4",
    )

    audio: Annotated[Path, Arg("AUDIO", positional=True)]
    """Audio file, or - for stdin. Formats other than WAV, FLAC, OGG, Opus and MP3 need ffmpeg."""
    output: Annotated[Path, Arg("FILE", short="-o")]
    """Token file to write; must end in .safetensors."""
    codec: Annotated[str, Arg("CODEC")] = "default"
    """File, folder, Hugging Face repo ID, or codec name such as encodec-24khz, dac-44khz or mimi
    (default: the bundled codec)."""
    num_codebooks: Annotated[int | None, Arg("N", at_least=1)] = None
    """Number of codebooks to use, starting with the coarsest (default: all)."""
    cache: Annotated[Path | None, Arg("FOLDER")] = None
    """Folder for cached tokens; audio already encoded with the same codec and number of codebooks
    is not encoded again (default: no cache)."""
    device: Annotated[str, Arg("DEVICE")] = "cpu"
    """Device to run on, such as cpu, cuda or cuda:1."""
    quiet: Annotated[bool, Arg(short="-q")] = False
    """Print warnings and errors only."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        if self.output.suffix != TOKENS:
            raise ValueError(f"{self.output} must end in {TOKENS}.")
        source = audio_source(self.audio)
        info = audio_info(source)
        check_writable(self.output)

        from audio_tokenizers.cache import TokenCache
        from audio_tokenizers.coding import encode_file
        from audio_tokenizers.token_file import save_encoded

        codec = load(self.codec, self.device)
        notice = conversion(
            self.audio, info, sample_rate=codec.sample_rate, num_channels=codec.num_channels
        )
        if notice is not None and not self.quiet:
            print(notice)
        with progress_bar("encoding", info.duration, quiet=self.quiet) as progress:
            encoded = encode_file(
                source,
                codec,
                codec_name=self.codec,
                num_codebooks=self.num_codebooks,
                device=self.device,
                cache=None if self.cache is None else TokenCache(self.cache),
                progress=progress,
            )
        with writing(self.output):
            save_encoded(encoded, self.output)
        K, T = encoded.tokens.shape
        if not self.quiet:
            made_by = encoded.identity
            print(f"{self.output}: {encoded.duration:.2f} s as {K} x {T} tokens of {made_by}")


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode tokens into an audio file."""

    EXAMPLES: ClassVar = (
        "lm-audio decode song.safetensors -o song.wav",
        "lm-audio decode song.safetensors -o song.flac --codec runs/codec",
    )

    tokens: Annotated[Path, Arg("TOKENS", positional=True)]
    """Token file written by `lm-audio encode`."""
    output: Annotated[Path, Arg("FILE", short="-o")]
    """Audio file to write: .wav, .flac, .ogg, .opus or .mp3."""
    codec: Annotated[str | None, Arg("CODEC")] = None
    """Codec that produced the tokens (default: the one recorded in TOKENS)."""
    device: Annotated[str, Arg("DEVICE")] = "cpu"
    """Device to run on, such as cpu, cuda or cuda:1."""
    quiet: Annotated[bool, Arg(short="-q")] = False
    """Print warnings and errors only."""

    def run(self) -> None:
        check_suffix(str(self.output))
        if not self.tokens.is_file():
            raise ValueError(f"No such file: {self.tokens}")
        check_writable(self.output)

        from audio_tokenizers.coding import decode_to_file
        from audio_tokenizers.token_file import load_encoded

        encoded = load_encoded(self.tokens)
        try:
            codec = load(self.codec or encoded.codec, self.device)
        except ValueError as error:
            hint = "" if self.codec else " If the codec of these tokens moved, use --codec."
            raise ValueError(f"{error}{hint}") from None
        with (
            writing(self.output),
            progress_bar("decoding", encoded.duration, quiet=self.quiet) as progress,
        ):
            decode_to_file(encoded, codec, self.output, device=self.device, progress=progress)
        if not self.quiet:
            print(f"{self.output}: {encoded.duration:.2f} s at {encoded.sample_rate} Hz")


def load(name: str, device: str) -> "AcousticTokenizer":
    """A codec by name; `default` is the bundled one."""
    quiet_libraries()
    from audio_tokenizers.acoustic.registry import load_codec
    from lm_audio.loading import find_device
    from lm_audio.pretrained import CODEC_FOLDER

    device = find_device(device)
    return load_codec(CODEC_FOLDER if name == "default" else name, device=device)
