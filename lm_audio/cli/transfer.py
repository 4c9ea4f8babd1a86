"""The verb that plays a sound through a model's latents: transfer."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from lm_audio.cli.arguments import Arg
from lm_audio.cli.coding import load
from lm_audio.cli.console import progress_bar, say
from lm_audio.cli.inputs import STDIN, audio_source, conversion
from lm_audio.cli.outputs import STDOUT, check_output, write_pieces

if TYPE_CHECKING:
    from torch import Tensor

    from audio_tokenizers.audio_files import AudioInfo
    from audio_tokenizers.protocol import LatentCodec

# What needs torch is imported where it runs, so that --help and checks are fast.


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Change the timbre of audio with a codec such as RAVE."""

    EXAMPLES: ClassVar = (
        "lm-audio transfer speech.wav --codec runs/piano -o piano.wav",
        'lm-audio transfer in.wav --codec strings.ts --latent "0:+1.5,3:*0.5" -o out.wav',
        "arecord -f cd | lm-audio transfer - --codec runs/piano -o - | aplay",
    )

    audio: Annotated[Path, Arg("AUDIO", positional=True)]
    """Audio file, or - for stdin; WAV on stdin is processed as it arrives."""
    codec: Annotated[str, Arg("CODEC")]
    """RAVE model (folder or .ts export), or another codec with continuous latents; `default` is the
    bundled codec."""
    output: Annotated[Path, Arg("FILE", short="-o")]
    """File (.wav, .flac, .ogg, .opus or .mp3), or - for WAV on stdout."""
    latent: Annotated[str | None, Arg("CHANGES")] = None
    """Changes to latent dimensions, such as 0:+1.5,3:*0.5,1:=0. Add @SECONDS to vary a
    change over time: 0:+0@2,0:+1.5@4 ramps an offset from 0 to 1.5 between 2 s and 4 s."""
    device: Annotated[str, Arg("DEVICE")] = "cpu"
    """Device to run on, such as cpu, cuda or cuda:1."""
    quiet: Annotated[bool, Arg(short="-q")] = False
    """Print warnings and errors only."""

    def run(self) -> None:
        check_output(self.output, source=self.audio)
        is_piped = self.audio == STDIN and sys.stdin.buffer.peek(12)[:4] == b"RIFF"  # type: ignore[union-attr]
        source: Any = None
        info: AudioInfo | None = None
        if not is_piped:
            from audio_tokenizers.audio_files import audio_info

            source = audio_source(self.audio)
            info = audio_info(source)

        from audio_tokenizers.acoustic.latent_edits import LatentEdits, parse_edits
        from audio_tokenizers.coding import transfer

        edits = [] if self.latent is None else parse_edits(self.latent)
        codec = latent_codec(self.codec, self.device)
        edit = LatentEdits(edits, frame_rate=codec.frame_rate, latent_size=codec.latent_size)
        screen = sys.stderr if self.output == STDOUT else sys.stdout
        if info is not None and not self.quiet:
            notice = conversion(
                self.audio, info, sample_rate=codec.sample_rate, num_channels=codec.num_channels
            )
            if notice is not None:
                say(notice, screen)
        pieces = piped(codec.sample_rate) if is_piped else _read(source, codec.sample_rate)
        with progress_bar("playing", info.duration if info else 0.0, quiet=self.quiet) as progress:
            made = transfer(pieces, codec, edit=edit if edits else None, device=self.device)
            num_samples = write_pieces(
                self.output,
                counted_pieces(made, progress, codec.sample_rate),
                sample_rate=codec.sample_rate,
                num_channels=codec.num_channels,
            )
        if not self.quiet:
            length = f"{num_samples / codec.sample_rate:.2f} s at {codec.sample_rate} Hz"
            say(f"{self.output}: {length}", screen)


def latent_codec(name: str, device: str) -> "LatentCodec":
    """A codec with latents by name; raises ValueError for others."""
    codec: Any = load(name, device)
    if not hasattr(codec, "latent_stream"):
        raise ValueError(
            f"The codec {name} has tokens but no latents. Use a RAVE model: train one with "
            "recipes/train_rave.py, or give a .ts export."
        )
    return codec


def piped(sample_rate: int) -> "Iterator[Tensor]":
    """The samples [C, N] of WAV on stdin as they arrive, at this rate."""
    from audio_tokenizers.resampling import StreamResampler
    from audio_tokenizers.wav_stream import read_wav_stream

    rate, pieces = read_wav_stream(sys.stdin.buffer)
    resampler: StreamResampler | None = None
    for piece in pieces:
        if resampler is None:
            resampler = StreamResampler(rate, sample_rate, num_channels=len(piece))
        yield resampler.push(piece)
    if resampler is None:
        raise ValueError("stdin has no samples.")
    yield resampler.finish()


def _read(source: Any, sample_rate: int) -> "Iterator[Tensor]":
    from audio_tokenizers.audio_files import stream_audio

    return stream_audio(source, sample_rate=sample_rate)


def counted_pieces(made: "Iterator[Tensor]", progress: Any, sample_rate: int) -> "Iterator[Tensor]":
    """The pieces [C, N], reported in seconds."""
    for samples in made:
        progress(samples.shape[1] / sample_rate)
        yield samples
