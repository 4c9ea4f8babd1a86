"""Clips generated from captions: how well they match, and how close their distribution is to real.

Shapes: n clips, D width.
"""

from collections.abc import Sequence

import torch

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.metrics.frechet import frechet_distance
from lm_audio.evaluation.report import Measurement, mean_of
from measures.clip_scores import (
    ClipEmbedder,
    adherence,
    describe_knn,
    difference_of,
    without_target,
)
from measures.probe import fit_probe
from measures.targets import TargetResult

PENALTY = 100.0
"""Penalty of the probe, since embeddings have more dimensions than some instruments have clips."""


def adherence_results(
    seen: Sequence[ClipFile],
    unseen: Sequence[ClipFile],
    real: Sequence[ClipFile],
    known: Sequence[ClipFile],
    embedder: ClipEmbedder,
) -> list[TargetResult]:
    """Whether clips match their class, for training captions and for unseen ones."""
    near = describe_knn(known, embedder)
    rows = [
        mean_of(
            adherence(clips, known, embedder),
            metric=f"text adherence, {what}",
            implementation=near,
            better="higher",
        )
        for what, clips in (
            ("captions of training", seen),
            ("captions never seen", unseen),
            ("real held-out clips", real),
        )
    ]
    return [
        TargetResult(group="text", measurement=rows[0], target=0.7, stretch=0.9),
        TargetResult(group="text", measurement=rows[1], target=0.6, stretch=0.85),
        *without_target("text", rows[2:]),
    ]


def guidance_result(
    guided: Sequence[ClipFile],
    plain: Sequence[ClipFile],
    known: Sequence[ClipFile],
    embedder: ClipEmbedder,
    *,
    scales: object,
) -> TargetResult:
    """How much more often clips match their class with guidance than at a scale of 1."""
    row = difference_of(
        *(adherence(clips, known, embedder) for clips in (guided, plain)),
        metric="text adherence with guidance minus without",
        implementation=f"{describe_knn(known, embedder)}; pairs of the same caption and seed, at "
        f"the scales {scales} and at 1",
        better="higher",
    )
    return TargetResult(group="text", measurement=row, target=0.0, stretch=0.1, strict=True)


def instrument_results(
    made: Sequence[ClipFile],
    real: Sequence[ClipFile],
    known: Sequence[ClipFile],
    embedder: ClipEmbedder,
) -> list[TargetResult]:
    """Whether a probe trained on real renders recognises the instruments of clips."""
    probe = fit_probe(embedder.means(known), [str(clip.label) for clip in known], penalty=PENALTY)
    generated, ceiling = (
        mean_of(
            [
                float(answer == clip.label)
                for answer, clip in zip(probe(embedder.means(clips)), clips, strict=True)
            ],
            metric=f"{len(probe.labels)} instruments, {what}",
            implementation=f"logistic regression, penalty {PENALTY:g}, on {len(known)} training "
            f"renders of one instrument; {embedder.name}",
            better="higher",
        )
        for what, clips in (("generated clips", made), ("real held-out renders", real))
    )
    result = TargetResult(group="instruments", measurement=generated, target=0.6, stretch=0.9)
    return [result, *without_target("instruments", [ceiling])]


def frechet_result(
    generated: Sequence[ClipFile],
    first: Sequence[ClipFile],
    second: Sequence[ClipFile],
    embedder: ClipEmbedder,
) -> TargetResult:
    """The distance of generated clips to real ones, relative to that between real ones."""
    ratio = frechet_ratio(generated, first, second, embedder)
    return TargetResult(group="frechet", measurement=ratio, target=4.0, stretch=1.5)


def frechet_ratio(
    generated: Sequence[ClipFile],
    first: Sequence[ClipFile],
    second: Sequence[ClipFile],
    embedder: ClipEmbedder,
) -> Measurement:
    """The distance of generated clips to the first half of real ones, over the second half's."""
    made, real, other = (torch.cat(embedder.windows(c)) for c in (generated, first, second))
    distances = [frechet_distance(vectors, real) for vectors in (made, other)]
    return Measurement(
        metric="Frechet distance to held-out clips, over that of two real halves",
        implementation=f"pytorch-fid, fadtk (formula); {embedder.name}",
        value=distances[0] / distances[1],
        num_items=len(generated),
        better="lower",
        note=f"{distances[0]:.4g} and {distances[1]:.4g}; {len(made):,}, {len(real):,} and "
        f"{len(other):,} vectors of {len(generated)}, {len(first)} and {len(second)} clips, each "
        f"too few to trust the distances themselves below {10 * real.shape[1]:,}",
    )
