"""What gates have in common: sounds in a space, words and quality of speech, differences.

Sounds are judged in a space (`Listener`): a clip is the mean of the vectors of its windows.

Shapes: n clips, D width.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.gates import GatedMeasurement
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.judges.embedding import AudioEmbedding, clip_means, embed_clips
from lm_audio.evaluation.judges.speech_recognition import SpeechRecognizer
from lm_audio.evaluation.metrics.classification import nearest_labels
from lm_audio.evaluation.metrics.confidence import Values, bootstrap_interval
from lm_audio.evaluation.metrics.words import Errors, word_errors
from lm_audio.evaluation.report import Better, Measurement, mean_of

NEIGHBOURS = 5

Watch = Callable[[Sequence[ClipFile], str], Iterable[ClipFile]]
"""Shows how far the work on clips is; the text says which work."""


def unwatched(clips: Sequence[ClipFile], _: str) -> Iterable[ClipFile]:
    return clips


class Listener:
    """An embedding, and the vectors of all that it has heard."""

    def __init__(self, embedding: AudioEmbedding, *, watch: Watch = unwatched) -> None:
        self.name = embedding.name
        self._embedding = embedding
        self._watch = watch
        self._heard: dict[ClipFile, Tensor] = {}

    def windows(self, clips: Sequence[ClipFile]) -> list[Tensor]:
        """The vectors [windows, D] of each clip."""
        new = [clip for clip in dict.fromkeys(clips) if clip not in self._heard]
        vectors = embed_clips(self._embedding, self._watch(new, "listening"))
        self._heard.update(zip(new, vectors, strict=True))
        return [self._heard[clip] for clip in clips]

    def means(self, clips: Sequence[ClipFile]) -> Tensor:
        """One vector a clip: [n, D]."""
        return clip_means(self.windows(clips))


def adherence(
    clips: Sequence[ClipFile], known: Sequence[ClipFile], listener: Listener
) -> list[float]:
    """1 for each clip whose 5 nearest real clips mostly have its label, else 0."""
    answers = nearest_labels(
        listener.means(clips),
        listener.means(known),
        [str(clip.label) for clip in known],
        k=NEIGHBOURS,
    )
    return [float(answer == clip.label) for answer, clip in zip(answers, clips, strict=True)]


def how_near(known: Sequence[ClipFile], listener: Listener) -> str:
    return f"{NEIGHBOURS}-NN by cosine among {len(known)} real training clips; {listener.name}"


def heard_words(
    clips: Sequence[ClipFile], recognizer: SpeechRecognizer, *, watch: Watch = unwatched
) -> list[Errors]:
    """The errors in what is heard of each clip."""
    rate = recognizer.sample_rate
    return [
        word_errors(str(clip.transcript), recognizer(clip.audio(rate).samples[0]))
        for clip in watch(clips, "words")
    ]


def excess_error_rate(
    errors: Sequence[Errors], original: Sequence[Errors], *, metric: str, implementation: str
) -> Measurement:
    """How much higher the rate is than that of the same utterances as they were."""
    items = np.array(
        [(a.edits, b.edits, b.length) for a, b in zip(errors, original, strict=True)], dtype=float
    )

    def excess(draws: Values) -> Values:
        sums = draws.sum(axis=1)
        return (sums[:, 0] - sums[:, 1]) / sums[:, 2]

    return Measurement(
        metric=metric,
        implementation=implementation,
        value=float(excess(items[None])[0]),
        num_items=len(items),
        interval=bootstrap_interval(items, excess),
        better="lower",
    )


def overall_quality(
    clips: Sequence[ClipFile], dnsmos: Dnsmos, *, watch: Watch = unwatched
) -> list[float]:
    rate = dnsmos.sample_rate
    return [dnsmos(c.audio(rate).samples[0]).overall for c in watch(clips, "rating")]


def difference_of(
    first: Sequence[float],
    second: Sequence[float],
    *,
    metric: str,
    implementation: str,
    better: Better,
) -> Measurement:
    """The mean of the first minus that of the second; items belong to each other in order."""
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    return mean_of(pairs, metric=metric, implementation=implementation, better=better)


def compared(group: str, rows: Iterable[Measurement]) -> list[GatedMeasurement]:
    """Rows without gates."""
    return [GatedMeasurement(group=group, measurement=row) for row in rows]
