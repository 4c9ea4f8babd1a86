"""The verb that raises the sample rate of a sound: upsample."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from lm_audio.cli.arguments import Arg
from lm_audio.cli.console import progress_bar, say
from lm_audio.cli.generate import AudioPath, ModelOptions
from lm_audio.cli.inputs import STDIN, audio_source, plain_text
from lm_audio.cli.outputs import STDOUT, check_output, write_pieces
from lm_audio.cli.transfer import counted_pieces

if TYPE_CHECKING:
    from torch import Tensor

# What needs torch is imported where it runs, so that --help and checks are fast.


@dataclass(frozen=True, kw_only=True)
class DenoisingOptions:
    """Denoising (defaults depend on the model)"""

    guidance_scale: Annotated[float | None, Arg("X", at_least=0)] = None
    """Classifier-free guidance scale; higher values make the audio follow --text more closely; 1
    disables guidance."""
    steps: Annotated[int | None, Arg("N", at_least=1, at_most=1000)] = None
    """Number of denoising steps; more steps take longer and usually sound better."""
    solver: Annotated[str | None, Arg("NAME")] = None
    """Denoising solver: ddim, dpm++2m, dpm++2m-sde, dpm++2s-ancestral, ipndm, lms, euler, heun or
    ping-pong."""


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Raise the sample rate of audio, with new sound above the old band.

    Needs a cascade of waveforms, such as one from recipes/train_cascade.py. Audio of any length is
    processed in constant memory.
    """

    EXAMPLES: ClassVar = (
        "lm-audio upsample old.wav --model runs/cascader/model -o new.wav",
        "lm-audio upsample phone.flac --model runs/music/model --noise-level 0.2 -o new.flac",
        "arecord -r 8000 -f S16_LE | lm-audio upsample - --model runs/music/model -o - | aplay",
    )

    audio: AudioPath
    """Audio file, or - for stdin; WAV on stdin is processed as it arrives."""
    output: Annotated[Path, Arg("FILE", short="-o")]
    """File (.wav, .flac, .ogg, .opus or .mp3), or - for WAV on stdout."""
    from_rate: Annotated[int | None, Arg("HZ", at_least=1)] = None
    """Sample rate to which the audio is resampled first, one that a stage of the model raises
    (default: the highest that keeps all of the audio)."""
    text: Annotated[str | None, Arg("TEXT")] = None
    """Description of the audio, for models that follow one."""
    noise_level: Annotated[float | None, Arg("X", at_least=0, at_most=1)] = None
    """Noise that hides details of the audio, from 0 to the highest level in the model's training;
    raise it for damaged audio (default: that of the model)."""
    seed: Annotated[int | None, Arg("N", at_least=0)] = None
    """Random seed; on a given machine, the same seed and settings give the same audio (default:
    random, printed)."""
    json: bool = False
    """Print one JSON object; everything else goes to stderr."""
    quiet: Annotated[bool, Arg(short="-q")] = False
    """Print warnings and errors only."""
    sampling: DenoisingOptions = field(default_factory=DenoisingOptions)
    model: ModelOptions = field(default_factory=ModelOptions)

    def run(self) -> None:
        check_output(self.output, source=self.audio)
        sound, sample_rate, seconds = self._sound()
        model = self.model.load(quiet=self.quiet)

        from lm_audio.generation.upsampling import raising, raising_stages
        from lm_audio.origin import origin_comment
        from lm_audio.sampling import adjusted

        stages = raising_stages(
            model.model.stages, sample_rate=sample_rate, from_rate=self.from_rate
        )
        changes = {name: x for name, x in asdict(self.sampling).items() if x is not None}
        how = raising(
            stages,
            sample_rate=sample_rate,
            from_rate=self.from_rate,
            text=plain_text(self.text),
            noise_level=self.noise_level,
            seed=self.seed,
            sampling=adjusted({stage.name: stage.sampling for stage in stages}, changes) or None,
        )
        settings = how.settings(model.loaded(), audio=str(self.audio))
        made = how.pieces(sound(how.num_channels), sample_rate=sample_rate)
        first = next(made)
        with progress_bar("upsampling", seconds, quiet=self.quiet) as progress:
            num_samples = write_pieces(
                self.output,
                counted_pieces(chain([first], made), progress, how.sample_rate),
                sample_rate=how.sample_rate,
                num_channels=len(first),
                comment=origin_comment(settings),
            )
        self._report(num_samples / how.sample_rate, how.sample_rate, settings)

    def _sound(self) -> tuple[Any, int, float]:
        """A function that gives the pieces for a number of channels, their rate, and seconds."""
        from audio_tokenizers.audio_files import audio_info, stream_audio

        if self.audio == STDIN and sys.stdin.buffer.peek(12)[:4] == b"RIFF":  # type: ignore[union-attr]
            from audio_tokenizers.wav_stream import read_wav_stream

            rate, pieces = read_wav_stream(sys.stdin.buffer)
            return (lambda _: _not_empty(pieces)), rate, 0.0
        source = audio_source(self.audio)
        info = audio_info(source)

        def sound(num_channels: int) -> "Iterator[Tensor]":
            kept = None if num_channels == 1 else num_channels
            return stream_audio(source, num_channels=kept, block_seconds=1.0)

        return sound, info.sample_rate, info.duration

    def _report(self, seconds: float, sample_rate: int, settings: dict[str, Any]) -> None:
        if not self.quiet:
            screen = sys.stderr if self.json or self.output == STDOUT else sys.stdout
            length = f"{seconds:.2f} s at {sample_rate} Hz"
            say(f"{self.output}: {length}, seed {settings['seed']}", screen)
        if self.json:
            line = json.dumps({"file": str(self.output), **settings})
            print(line, file=sys.stderr if self.output == STDOUT else sys.stdout, flush=True)


def _not_empty(pieces: "Iterator[Tensor]") -> "Iterator[Tensor]":
    is_empty = True
    for piece in pieces:
        is_empty = False
        yield piece
    if is_empty:
        raise ValueError("stdin has no samples.")
