"""The clips of a prepared corpus, of either split, with every field the evaluation reads."""

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from lm_audio.data.manifest import Split, conditions_of, read_cuts
from lm_audio.evaluation.clips import ClipFile

UNSEEN_FILE = "unseen_captions.jsonl"


@dataclass(frozen=True, kw_only=True)
class CorpusClip(ClipFile):
    """Args:
    seconds: how long it is.
    captions: the caption and its paraphrases.
    instruments: their names, with commas between.
    """

    seconds: float
    captions: tuple[str, ...] = ()
    instruments: str | None = None

    def part(self, start: float, seconds: float) -> ClipFile:
        """An excerpt of at most this many seconds."""
        rest = min(seconds, self.seconds - start)
        return replace(self, start=self.start + start, duration=rest)


def read_corpus(folder: Path, split: Split) -> list[CorpusClip]:
    """The clips of a split, by name."""
    clips = []
    for cut in read_cuts(folder, split):
        known = conditions_of(cut)
        texts = known.get("text", [])
        captions = tuple(texts) if isinstance(texts, list) else (str(texts),)
        named = {
            key: str(known[key])
            for key in ("label", "transcript", "speaker", "instruments")
            if key in known
        }
        clip = CorpusClip(
            name=cut.id,
            path=Path(cut.recording.sources[0].source),
            start=cut.start,
            duration=None if cut.duration == cut.recording.duration else cut.duration,
            seconds=cut.duration,
            text=captions[0] if captions else None,
            captions=captions,
            **named,
        )
        clips.append(clip)
    return sorted(clips, key=lambda clip: clip.name)


def captions_by_label(clips: list[CorpusClip]) -> dict[str, list[str]]:
    """All captions of the clips of each label, in order."""
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.label is not None:
            found[clip.label].update(clip.captions)
    return {label: sorted(texts) for label, texts in sorted(found.items())}


def read_unseen(folder: Path) -> dict[str, list[str]]:
    """The captions that no training clip has, by label, from lines with "text" and "label"."""
    path = folder / UNSEEN_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {UNSEEN_FILE}; prepare the corpus again.")
    found: dict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["label"]].add(row["text"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'Line {number} of {path} needs "text" and "label"; use the corpus of a recipe '
                "that writes both, such as prepare_esc10."
            ) from None
    return {label: sorted(texts) for label, texts in sorted(found.items())}
