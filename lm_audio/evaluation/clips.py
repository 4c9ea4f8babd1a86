"""Folders of clips to evaluate, with their metadata.

A folder may have `clips.jsonl`, one object per line with "audio", the file, and optional "text",
"label", "transcript" and "speaker". Without it, all audio files are used, with the first folder
level as the label. Of a prepared corpus, the held-out clips are used.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import Audio, find_audio, read_audio
from lm_audio.data.manifest import conditions_of, read_cuts

FILE = "clips.jsonl"
KNOWN = ("text", "label", "transcript", "speaker")


@dataclass(frozen=True, kw_only=True)
class ClipFile:
    """An audio file and its metadata.

    Args:
        name: without the suffix; a generated clip and a real one of the same name are a pair.
        duration: seconds from `start` on; the whole file by default.
    """

    name: str
    path: Path
    text: str | None = None
    label: str | None = None
    transcript: str | None = None
    speaker: str | None = None
    start: float = 0.0
    duration: float | None = None

    def audio(self, sample_rate: int | None = None, *, num_channels: int = 1) -> Audio:
        return read_audio(
            self.path,
            start=self.start,
            duration=self.duration,
            sample_rate=sample_rate,
            num_channels=num_channels,
        )


def read_clips(folder: Path, *, most: int | None = None) -> list[ClipFile]:
    """The clips of a folder by name; at most `most`, evenly spread over it."""
    if (folder / "held_out.jsonl.gz").is_file():
        clips = _of_corpus(folder)
    elif (folder / FILE).is_file():
        clips = [_of_line(line, folder, n) for n, line in _lines(folder / FILE)]
    else:
        paths = find_audio(folder)
        clips = [_of_path(path, folder) for path in paths]
    if not clips:
        raise ValueError(f"No audio files found in {folder}.")
    clips.sort(key=lambda clip: clip.name)
    if most is not None and most < len(clips):
        clips = [clips[i * len(clips) // most] for i in range(most)]
    return clips


def write_clips(folder: Path, clips: Iterable[ClipFile]) -> None:
    """Writes `clips.jsonl` for `read_clips`; the audio must already be in `folder`."""
    with replacing(folder / FILE) as path:
        lines = []
        for clip in clips:
            known = {k: v for k, v in asdict(clip).items() if v is not None}
            known = {k: known[k] for k in KNOWN if k in known}
            lines.append(json.dumps({"audio": str(clip.path.relative_to(folder)), **known}))
        path.write_text("".join(f"{line}\n" for line in lines))


def pair_clips(
    generated: Sequence[ClipFile], real: Sequence[ClipFile]
) -> list[tuple[ClipFile, ClipFile]]:
    """Pairs of a generated and a real clip of the same name."""
    named = {clip.name: clip for clip in real}
    return [(clip, named[clip.name]) for clip in generated if clip.name in named]


def _of_corpus(folder: Path) -> list[ClipFile]:
    clips = []
    for cut in read_cuts(folder, "held_out"):
        known: dict[str, Any] = {
            name: value[0] if isinstance(value, list) else str(value)  # a caption, not a paraphrase
            for name, value in conditions_of(cut).items()
            if name in KNOWN
        }
        whole = cut.duration == cut.recording.duration
        clip = ClipFile(
            name=cut.id,
            path=Path(cut.recording.sources[0].source),
            start=cut.start,
            duration=None if whole else cut.duration,
            **known,
        )
        clips.append(clip)
    return clips


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = enumerate(path.read_text().splitlines(), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _of_line(line: str, folder: Path, number: int) -> ClipFile:
    try:
        row = json.loads(line)
        audio = Path(row["audio"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f'Line {number} of {folder / FILE} must be a JSON object with "audio", for example '
            '{"audio": "a.wav", "text": "rain"}.'
        ) from None
    known: dict[str, Any] = {k: str(row[k]) for k in KNOWN if row.get(k) is not None}
    return ClipFile(name=str(audio.with_suffix("")), path=folder / audio, **known)


def _of_path(path: Path, folder: Path) -> ClipFile:
    relative = path.relative_to(folder)
    label = relative.parts[0] if len(relative.parts) > 1 else None
    return ClipFile(name=str(relative.with_suffix("")), path=path, label=label)
