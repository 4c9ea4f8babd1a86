"""Where clips go: files, a folder with a manifest, or the standard output."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import tyro
from tqdm import tqdm

if TYPE_CHECKING:
    from lm_audio.clip import Clip
    from lm_audio.watermark import Watermark

# What needs torch is imported where it runs, so that --help answers at once.

LONGEST_SLUG = 40  # characters of a prompt in a file name
FOLDER = Path("out")
STDOUT = Path("-")
MANIFEST = "manifest.jsonl"

Settings = Mapping[str, Any]
"""What it takes to make a clip again, ready for JSON."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a clip goes, and its picture, if one is asked for."""

    sound: Path
    picture: Path | None


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    output: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = None
    """Output file (.wav, .flac, .ogg, .opus or .mp3), a folder ending in / (with a manifest.jsonl
    of all settings), or - for WAV on stdout (default: a file in out/)."""
    plot: Path | None = None
    """Also write a PNG of the waveform and mel spectrogram (extra: plot)."""
    play: bool = False
    """Play the result."""
    watermark: str | None = None
    """Watermark the clips with AudioSeal: its weights file, or facebook/audioseal (extra:
    watermark)."""
    json: bool = False
    """Print one JSON object per clip instead of text."""

    @property
    def folder(self) -> Path | None:
        """The folder for all clips, if one was asked for."""
        if self.output is None or not (self.output.endswith("/") or Path(self.output).is_dir()):
            return None
        return Path(self.output)

    @property
    def screen(self) -> TextIO:
        """Where people read on: what machines read is not mixed with it."""
        return sys.stderr if self.json or self.output == str(STDOUT) else sys.stdout

    def places(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Place]:
        """Where the clips of these texts and seeds go, once it is sure that they can go there."""
        from lm_audio.clip import find_player, new_figure

        if self.watermark is not None:
            self._load_watermark(self.watermark)
        sounds = self._sounds(texts, seeds)
        if self.play:
            find_player()
        if self.plot is None:
            return [Place(sound=sound, picture=None) for sound in sounds]
        new_figure(self.plot)
        are_apart = len(set(seeds)) == len(seeds)
        added = [str(seed) for seed in seeds] if are_apart else [sound.stem for sound in sounds]
        pictures = _each(self.plot, added)
        return [Place(sound=s, picture=p) for s, p in zip(sounds, pictures, strict=True)]

    @staticmethod
    @cache
    def _load_watermark(source: str) -> "Watermark":
        from lm_audio.watermark import Watermark

        return Watermark.load(source)

    def _sounds(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Path]:
        from audio_tokenizers.audio_writer import AudioWriter

        if self.output is None or self.folder is not None:
            pairs = zip(texts, seeds, strict=True)
            names = _apart([f"{slug(text)}-{seed}" for text, seed in pairs])
            return [(self.folder or FOLDER) / f"{name}.wav" for name in names]
        if self.output == str(STDOUT):
            if len(seeds) > 1:
                raise ValueError("The standard output takes one clip; give -o a folder for more.")
            return [STDOUT]
        path = Path(self.output)
        AudioWriter(path, 24_000)  # its suffix is one that can be written
        if len(set(texts)) > 1:
            raise ValueError(f"{path} is for one prompt; give -o a folder, such as {path.stem}/.")
        return _each(path, [str(seed) for seed in seeds])

    def missing(self, places: Sequence[Place], settings: Sequence[Settings]) -> list[int]:
        """Which clips are still to be made: those that the folder's manifest does not have."""
        known = {} if self.folder is None else read_manifest(self.folder)
        return [
            index
            for index, (place, wanted) in enumerate(zip(places, settings, strict=True))
            if known.get(place.sound.name) != wanted or not place.sound.is_file()
        ]

    def deliver(
        self, clips: "Sequence[Clip]", places: Sequence[Place], settings: Sequence[Settings]
    ) -> None:
        """Marks, writes, notes, draws and plays clips."""
        if self.watermark is not None:
            mark = self._load_watermark(self.watermark)
            clips = [mark.marked(clip) for clip in clips]
        for clip, place, made_with in zip(clips, places, settings, strict=True):
            path = place.sound
            if path == STDOUT:
                _write_to_stdout(clip)
            else:
                clip.save(path)
            if self.folder is not None:
                _note(self.folder / MANIFEST, {"file": path.name, **made_with})
            if self.json and path != STDOUT:
                print(json.dumps({"file": str(path), **made_with}), flush=True)
            rate = f"{clip.sample_rate} Hz"
            said = f"{path}: {clip.duration:.2f} s at {rate}, seed {clip.seed}"
            tqdm.write(said, file=self.screen)  # above the bar, if one is shown
            if place.picture is not None:
                clip.plot(place.picture)
        if self.play:
            for clip in clips:
                clip.play()


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, or of the standard input as -, one a line."""
    try:
        text = sys.stdin.read() if path == STDOUT else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; give a file with a prompt on each line.") from None
    prompts = [line.strip() for line in text.split("\n")]
    if not any(prompts):
        raise ValueError(f"{path} holds no prompt; give a file with one on each line.")
    return [prompt for prompt in prompts if prompt]


def read_manifest(folder: Path) -> dict[str, Settings]:
    """What made each clip of a folder, by the name of its file; the last word on each counts."""
    found = {}
    path = folder / MANIFEST
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            row = json.loads(line)
            found[row.pop("file")] = row
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # a line that was cut off when a run was killed; its clip is made again
    return found


def slug(text: str) -> str:
    """A text as a part of a file name."""
    words = re.findall(r"\w+", text.lower())
    return "-".join(words)[:LONGEST_SLUG].rstrip("-") or "sound"


def _note(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_to_stdout(clip: "Clip") -> None:
    sys.stdout.buffer.write(clip.encoded("wav"))
    sys.stdout.buffer.flush()


def _apart(names: Sequence[str]) -> list[str]:
    """Names with a number added where an earlier one is the same."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def _each(path: Path, added: Sequence[str]) -> list[Path]:
    """The file that was named, or, for several clips, files with something added."""
    if len(added) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{one}") for one in added]
