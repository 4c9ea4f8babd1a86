"""Scores of single clips that several measures share: class, words and speech quality.

Sound classes are judged in an embedding space: a clip is the mean of the vectors of its windows.

Shapes: n clips, D width.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.judges.embedding import AudioEmbedding, clip_means, embed_clips
from lm_audio.evaluation.judges.speech_recognition import SpeechRecognizer
from lm_audio.evaluation.metrics.classification import nearest_labels
from lm_audio.evaluation.metrics.confidence import Values, bootstrap_interval
from lm_audio.evaluation.metrics.words import Errors, word_errors
from lm_audio.evaluation.report import Better, Measurement, mean_of
from measures.targets import TargetResult

NEIGHBOURS = 5

Progress = Callable[[Sequence[ClipFile], str], Iterable[ClipFile]]
"""Iterates over clips and shows the progress under a title."""


def no_progress(clips: Sequence[ClipFile], _: str) -> Iterable[ClipFile]:
    return clips


class ClipEmbedder:
    """Embeds clips and keeps their vectors, so that no clip is embedded twice."""

    def __init__(self, embedding: AudioEmbedding, *, progress: Progress = no_progress) -> None:
        self.name = embedding.name
        self._embedding = embedding
        self._progress = progress
        self._vectors: dict[ClipFile, Tensor] = {}

    def windows(self, clips: Sequence[ClipFile]) -> list[Tensor]:
        """The vectors [windows, D] of each clip."""
        new = [clip for clip in dict.fromkeys(clips) if clip not in self._vectors]
        vectors = embed_clips(self._embedding, self._progress(new, "embedding"))
        self._vectors.update(zip(new, vectors, strict=True))
        return [self._vectors[clip] for clip in clips]

    def means(self, clips: Sequence[ClipFile]) -> Tensor:
        """One vector a clip: [n, D]."""
        return clip_means(self.windows(clips))


def adherence(
    clips: Sequence[ClipFile], known: Sequence[ClipFile], embedder: ClipEmbedder
) -> list[float]:
    """1 for each clip whose 5 nearest real clips mostly have its label, else 0."""
    answers = nearest_labels(
        embedder.means(clips),
        embedder.means(known),
        [str(clip.label) for clip in known],
        k=NEIGHBOURS,
    )
    return [float(answer == clip.label) for answer, clip in zip(answers, clips, strict=True)]


def describe_knn(known: Sequence[ClipFile], embedder: ClipEmbedder) -> str:
    return f"{NEIGHBOURS}-NN by cosine among {len(known)} real training clips; {embedder.name}"


def clip_word_errors(
    clips: Sequence[ClipFile], recognizer: SpeechRecognizer, *, progress: Progress = no_progress
) -> list[Errors]:
    """The word errors of a recogniser's transcript of each clip."""
    rate = recognizer.sample_rate
    return [
        word_errors(str(clip.transcript), recognizer(clip.audio(rate).samples[0]))
        for clip in progress(clips, "words")
    ]


def excess_error_rate(
    errors: Sequence[Errors], original: Sequence[Errors], *, metric: str, implementation: str
) -> Measurement:
    """The word error rate minus that of the original utterances."""
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
    clips: Sequence[ClipFile], dnsmos: Dnsmos, *, progress: Progress = no_progress
) -> list[float]:
    rate = dnsmos.sample_rate
    return [dnsmos(c.audio(rate).samples[0]).overall for c in progress(clips, "rating")]


def difference_of(
    first: Sequence[float],
    second: Sequence[float],
    *,
    metric: str,
    implementation: str,
    better: Better,
) -> Measurement:
    """The mean of the first minus that of the second, of items in pairs."""
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    return mean_of(pairs, metric=metric, implementation=implementation, better=better)


def without_target(group: str, rows: Iterable[Measurement]) -> list[TargetResult]:
    """Rows for comparison only."""
    return [TargetResult(group=group, measurement=row) for row in rows]
