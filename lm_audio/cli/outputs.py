"""Where clips go: files, a folder with a manifest, or the standard output."""

import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

from lm_audio.cli.arguments import Arg
from lm_audio.cli.console import say, share_bar
from lm_audio.cli.manifest import Settings, add_to_manifest, is_made_with, read_manifest

if TYPE_CHECKING:
    from torch import Tensor

    from lm_audio.clip import Clip
    from lm_audio.watermark import Watermark

# What needs torch is imported where it runs, so that --help and checks are fast.

LONGEST_SLUG = 40  # characters of a prompt in a file name
FOLDER = Path("out")
STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The file of a clip, and that of its picture."""

    sound: Path
    picture: Path | None


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output"""

    output: Annotated[str | None, Arg("PATH", short="-o")] = None
    """File (.wav, .flac, .ogg, .opus or .mp3; or .png, a spectrogram image), folder (a
    manifest.jsonl with all settings is written there), or - for WAV on stdout (default: a file in
    out/)."""
    plot: Annotated[Path | None, Arg("FILE")] = None
    """Also save a plot of the waveform and mel spectrogram (.png, .jpg, .svg or .pdf)."""
    play: bool = False
    """Play each clip when it is ready."""
    watermark: Annotated[str | None, Arg("MODEL")] = None
    """Add an inaudible AudioSeal watermark; MODEL is facebook/audioseal or a file of
    AudioSeal generator weights."""
    json: bool = False
    """Print one JSON object per clip; everything else goes to stderr."""
    quiet: Annotated[bool, Arg(short="-q")] = False
    """Print warnings and errors only."""

    @property
    def folder(self) -> Path | None:
        """The folder for all clips, if the output is one."""
        if self.output is None or self.output in ("", str(STDOUT)):
            return None
        path = Path(self.output)
        is_new = not path.suffix and not path.exists() and not path.name.startswith(".")
        return path if self.output.endswith("/") or path.is_dir() or is_new else None

    @property
    def screen(self) -> TextIO:
        """Where messages for people go: never into the output of a program."""
        if self.quiet:
            return io.StringIO()
        return sys.stderr if self.json or self.output == str(STDOUT) else sys.stdout

    @contextmanager
    def making(self, what: str, seconds: float) -> Iterator[Callable[[float], None]]:
        """Shows a progress bar, then the time taken and the real-time factor."""
        start = time.perf_counter()
        with share_bar(what, quiet=self.quiet) as progress:
            yield progress
        took = time.perf_counter() - start
        made = f"Generated {seconds:.2f} s of audio in {took:.1f} s"
        print(f"{made} (real-time factor {took / seconds:.2f})", file=self.screen)

    def places(
        self, texts: Sequence[str], seeds: Sequence[int], *, source: Path | None = None
    ) -> list[Place]:
        """The files of the clips of these texts and seeds, after a check that they can be written.

        Args:
            source: a file that must not be replaced.
        """
        sounds = self._sounds(texts, seeds)
        places = [Place(sound=sound, picture=None) for sound in sounds]
        if self.plot is not None:
            are_apart = len(set(seeds)) == len(seeds)
            added = [str(seed) for seed in seeds] if are_apart else [s.stem for s in sounds]
            pictures = _each(self.plot, added)
            if set(pictures) & set(sounds):
                raise ValueError(f"-o and --plot are the same file: {self.plot}. Rename one.")
            places = [replace(place, picture=p) for place, p in zip(places, pictures, strict=True)]
        for path in {p for place in places for p in (place.sound, place.picture)} - {None, STDOUT}:
            if path is not None and source is not None and path.resolve() == source.resolve():
                raise ValueError(
                    f"{path} is the input. Choose another output with -o, or add --overwrite."
                )
        for folder in {place.sound.parent for place in places if place.sound != STDOUT}:
            check_writable(folder / "clip")
        if self.plot is not None:
            from lm_audio.picture import new_figure

            new_figure(self.plot)
            check_writable(self.plot)
        if self.play:
            from lm_audio.clip import find_player

            find_player()
        if self.watermark is not None:
            self._load_watermark(self.watermark)
        return places

    @staticmethod
    @cache
    def _load_watermark(source: str) -> "Watermark":
        from lm_audio.watermark import Watermark

        return Watermark.load(source)

    def _sounds(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Path]:
        if self.output is None or self.folder is not None:
            pairs = zip(texts, seeds, strict=True)
            names = _apart([f"{slug(text)}-{seed}" for text, seed in pairs])
            return [(self.folder or FOLDER) / f"{name}.wav" for name in names]
        if self.output == str(STDOUT):
            if len(seeds) > 1:
                raise ValueError("stdout takes a single clip; give -o a folder for several.")
            return [STDOUT]
        path = Path(self.output)
        check_suffix(self.output, images=True)
        if len(set(texts)) > 1:
            raise ValueError(f"{path} takes one prompt; for several, give -o a folder.")
        return _each(path, [str(seed) for seed in seeds])

    def missing(self, places: Sequence[Place], settings: Sequence[Settings]) -> list[int]:
        """The numbers of the clips that are not in the folder's manifest."""
        known = {} if self.folder is None else read_manifest(self.folder)
        return [
            index
            for index, (place, wanted) in enumerate(zip(places, settings, strict=True))
            if not is_made_with(known.get(place.sound.name), wanted) or not place.sound.is_file()
        ]

    def deliver(
        self, clips: "Sequence[Clip]", places: Sequence[Place], settings: Sequence[Settings]
    ) -> None:
        """Watermarks, saves, lists, plots and plays clips."""
        if self.watermark is not None:
            mark = self._load_watermark(self.watermark)
            clips = [mark.marked(clip) for clip in clips]
        for clip, place, made_with in zip(clips, places, settings, strict=True):
            # The clip names what was chosen for it, such as the precision for auto.
            clip = replace(clip, settings={**made_with, **clip.settings})
            self._deliver(clip, place, {**made_with, "dtype": clip.settings["dtype"]})
        if self.play:
            for clip in clips:
                clip.play()

    def _deliver(self, clip: "Clip", place: Place, row: Settings) -> None:
        path = place.sound
        if path == STDOUT:
            sys.stdout.buffer.write(clip.encoded("wav"))
            sys.stdout.buffer.flush()
        else:
            with writing(path):
                clip.save(path)
        if self.folder is not None:
            with writing(self.folder):
                add_to_manifest(self.folder, path.name, row)
        length = f"{clip.duration:.2f} s at {clip.sample_rate} Hz"
        say(f"{path}: {length}, seed {clip.seed}", self.screen)
        if self.json:
            line = json.dumps({"file": str(path), **clip.settings})
            print(line, file=sys.stderr if path == STDOUT else sys.stdout, flush=True)
        if place.picture is not None:
            with writing(place.picture):
                clip.plot(place.picture)
            say(f"{place.picture}: picture of {path}", self.screen)


def check_suffix(output: str, *, images: bool = False) -> None:
    """Raises ValueError unless a name ends in the suffix of an audio format.

    Args:
        images: whether spectrogram images are possible, too.
    """
    from audio_tokenizers import audio_files, png

    suffixes = audio_files.SUFFIXES | ({png.SUFFIX} if images else set())
    if not output:
        raise ValueError("-o is empty; give a file such as clip.wav, or a folder.")
    if output.lower() in suffixes:
        raise ValueError(f"{output} is only a suffix; use a file name such as clip{output}.")
    if Path(output).suffix.lower() not in suffixes:
        raise ValueError(
            f"{output} does not end in a supported audio extension; use one of "
            f"{', '.join(sorted(suffixes))}, or end the name of a folder with /."
        )


def check_writable(path: Path) -> None:
    """Raises ValueError unless a new file can be written there; leaves nothing behind."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"Cannot write to {path.parent}: {folder} is not a folder.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = str(error.strerror).lower()
        raise ValueError(f"Cannot write to {path.parent}: {reason}.") from None


def check_output(output: Path, *, source: Path) -> None:
    """Raises ValueError unless audio can be written there and the input is kept."""
    if output == STDOUT:
        return
    check_suffix(str(output))
    if source != STDOUT and output.resolve() == source.resolve():
        raise ValueError(f"{output} is the input. Choose another output with -o.")
    check_writable(output)


def write_pieces(
    output: Path,
    pieces: "Iterable[Tensor]",
    *,
    sample_rate: int,
    num_channels: int,
    comment: str | None = None,
) -> int:
    """Writes samples [C, N] piece by piece and returns their number."""
    num_samples = 0
    if output == STDOUT:
        from audio_tokenizers.wav_stream import pcm16, wav_header

        out = sys.stdout.buffer
        out.write(wav_header(sample_rate, num_channels))
        for samples in pieces:
            out.write(pcm16(samples))
            out.flush()
            num_samples += samples.shape[1]
        return num_samples
    from audio_tokenizers.audio_writer import AudioWriter

    with (
        writing(output),
        AudioWriter(output, sample_rate, num_channels=num_channels, comment=comment) as writer,
    ):
        for samples in pieces:
            writer.write(samples)
            num_samples += samples.shape[1]
    return num_samples


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file in errors of the system and of libsndfile, such as a full disk."""
    import soundfile
    from safetensors import SafetensorError

    try:
        yield
    except (soundfile.LibsndfileError, SafetensorError) as error:
        status = os.statvfs(path.parent) if hasattr(os, "statvfs") else None
        is_full = status is not None and status.f_bavail * status.f_frsize < 1 << 20
        reason = "no space left on device" if is_full else " ".join(str(error).split())
        raise ValueError(f"Cannot write {path}: {reason.rstrip('.')}.") from error
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {str(error.strerror).lower()}.") from error


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, or of stdin for -: one a line, without comments."""
    try:
        text = sys.stdin.read() if path == STDOUT else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text.") from None
    except FileNotFoundError:
        raise ValueError(f"No such file: {path}") from None
    lines = [line.strip() for line in text.split("\n")]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"{path} contains no prompts; put one on each line.")
    return prompts


def slug(text: str) -> str:
    """A text as a part of a file name."""
    words = re.findall(r"\w+", text.lower())
    return "-".join(words)[:LONGEST_SLUG].rstrip("-") or "sound"


def _apart(names: Sequence[str]) -> list[str]:
    """Names with a number added where an earlier one is the same."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def _each(path: Path, added: Sequence[str]) -> list[Path]:
    """The path, or, for several clips, paths with something added to the name."""
    if len(added) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{one}") for one in added]
