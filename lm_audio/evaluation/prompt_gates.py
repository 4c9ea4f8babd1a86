"""Clips made from captions: is what they say heard, and are they spread as real clips are?

Shapes: n clips, D width.
"""

from collections.abc import Sequence

import torch

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.gates import GatedMeasurement
from lm_audio.evaluation.measure_gates import (
    Listener,
    adherence,
    compared,
    difference_of,
    how_near,
)
from lm_audio.evaluation.metrics.frechet import frechet_distance
from lm_audio.evaluation.probe import fit_probe
from lm_audio.evaluation.report import Measurement, mean_of

PENALTY = 100.0
"""Of the probe: embeddings have more dimensions than some instruments have renders."""


def adherence_gates(
    seen: Sequence[ClipFile],
    unseen: Sequence[ClipFile],
    real: Sequence[ClipFile],
    known: Sequence[ClipFile],
    listener: Listener,
) -> list[GatedMeasurement]:
    """Whether clips sound like their class, made from captions of training and from others."""
    near = how_near(known, listener)
    rows = [
        mean_of(
            adherence(clips, known, listener),
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
        GatedMeasurement(group="text", measurement=rows[0], gate=0.7, goal=0.9),
        GatedMeasurement(group="text", measurement=rows[1], gate=0.6, goal=0.85),
        *compared("text", rows[2:]),
    ]


def guidance_gate(
    guided: Sequence[ClipFile],
    plain: Sequence[ClipFile],
    known: Sequence[ClipFile],
    listener: Listener,
    *,
    scales: object,
) -> GatedMeasurement:
    """How much more clips sound like their class with guidance than at a scale of 1."""
    row = difference_of(
        *(adherence(clips, known, listener) for clips in (guided, plain)),
        metric="text adherence with guidance minus without",
        implementation=f"{how_near(known, listener)}; pairs of the same caption and seed, at the "
        f"scales {scales} and at 1",
        better="higher",
    )
    return GatedMeasurement(group="text", measurement=row, gate=0.0, goal=0.1, strict=True)


def instrument_gates(
    made: Sequence[ClipFile],
    real: Sequence[ClipFile],
    known: Sequence[ClipFile],
    listener: Listener,
) -> list[GatedMeasurement]:
    """Whether a probe of real renders hears the instruments that clips should have."""
    probe = fit_probe(listener.means(known), [str(clip.label) for clip in known], penalty=PENALTY)
    generated, ceiling = (
        mean_of(
            [
                float(answer == clip.label)
                for answer, clip in zip(probe(listener.means(clips)), clips, strict=True)
            ],
            metric=f"{len(probe.labels)} instruments, {what}",
            implementation=f"logistic regression, penalty {PENALTY:g}, on {len(known)} training "
            f"renders of one instrument; {listener.name}",
            better="higher",
        )
        for what, clips in (("generated clips", made), ("real held-out renders", real))
    )
    ours = GatedMeasurement(group="instruments", measurement=generated, gate=0.6, goal=0.9)
    return [ours, *compared("instruments", [ceiling])]


def frechet_gate(
    generated: Sequence[ClipFile],
    first: Sequence[ClipFile],
    second: Sequence[ClipFile],
    listener: Listener,
) -> GatedMeasurement:
    """How far generated clips are from real ones, by how far real ones are from each other."""
    ratio = frechet_ratio(generated, first, second, listener)
    return GatedMeasurement(group="frechet", measurement=ratio, gate=4.0, goal=1.5)


def frechet_ratio(
    generated: Sequence[ClipFile],
    first: Sequence[ClipFile],
    second: Sequence[ClipFile],
    listener: Listener,
) -> Measurement:
    """The distance of generated clips to the first half of real ones, over that of the second."""
    ours, real, other = (torch.cat(listener.windows(c)) for c in (generated, first, second))
    distances = [frechet_distance(vectors, real) for vectors in (ours, other)]
    return Measurement(
        metric="Frechet distance to held-out clips, over that of two real halves",
        implementation=f"pytorch-fid, fadtk (formula); {listener.name}",
        value=distances[0] / distances[1],
        num_items=len(generated),
        better="lower",
        note=f"{distances[0]:.4g} and {distances[1]:.4g}; {len(ours):,}, {len(real):,} and "
        f"{len(other):,} vectors of {len(generated)}, {len(first)} and {len(second)} clips, each "
        f"too few to trust the distances themselves below {10 * ours.shape[1]:,}",
    )
