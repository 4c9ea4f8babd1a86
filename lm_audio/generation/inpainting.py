"""Inpainting: regenerates a span of audio between its left and right context.

A two-sided stage fills the span directly. A token language model sees the left context only, so it
generates several candidates from it and keeps the one that makes the true tokens after the span
most likely under the model.

Shapes: C channels, N samples, K codebooks or latent width, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.clip_job import make_tracks
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.prompt import Prompt, tail_length
from lm_audio.generation.request import Request
from lm_audio.generation.track import Stage, Track
from lm_audio.renderers.mastering import fill_span
from lm_audio.renderers.protocol import Renderer

RIGHT_SHARE = 4  # a quarter of the context comes after the span
JUDGED_SECONDS = 1.0  # of the audio after the span


def inpaint(
    request: Request,
    samples: Tensor,
    *,
    start: float,
    end: float,
    stages: Sequence[Stage],
    renderer: Renderer,
    output_stages: Sequence[str],
    read: Callable[[Tensor], Prompt],
    num_candidates: int,
    progress: Callable[[float], None] | None,
) -> Clip:
    """The samples [C, N] with those from `start` to `end` seconds regenerated."""
    first, last = _span(samples, start, end, renderer.sample_rate)
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, got {num_candidates}.")
    left, right = _context(samples.shape[1], first, last, stages, renderer)
    prompt = read(samples[:, left:right])
    plan = make_tracks(
        request,
        stages=stages,
        renderer=renderer,
        output_stages=output_stages,
        num_samples=right - left,
        prompt=None,
        first=left,
        whole=samples.shape[1],
    )
    chosen: dict[str, Track] = {}
    for i, stage in enumerate(stages):
        values, starts = prompt.around(stage, renderer, first=first - left, last=last - left)
        source = None if stage.source is None else chosen[stage.source.stage]
        track = replace(plan[stage.name], values=values, starts=starts, source=source)
        report = None if progress is None else partial(_report, progress, i, len(stages))
        if stage.two_sided:
            _make(stage, [track], report=report)
            chosen[stage.name] = track
        elif isinstance(stage, LMStage):
            chosen[stage.name] = _best(stage, track, num_candidates, report=report)
        else:
            raise ValueError(f"The {stage.name} stage of this model does not support inpainting.")
    values = torch.cat([chosen[name].values for name in output_stages])
    sound = renderer.render(values, num_samples=right - left).cpu().float()
    filled = fill_span(
        samples[:, left:right],
        sound,
        start=first - left,
        end=last - left,
        sample_rate=renderer.sample_rate,
        raw=request.raw,
    )
    return Clip(
        samples=torch.cat([samples[:, :left], filled, samples[:, right:]], dim=1),
        sample_rate=renderer.sample_rate,
        tokens=values.cpu() if renderer.signal.kind == "tokens" else None,
        stage_values={name: track.values.cpu() for name, track in chosen.items()},
        seed=request.seed,
        prompt=None if request.prompt is None else str(request.prompt),
    )


def _report(progress: Callable[[float], None], stage: int, num_stages: int, done: float) -> None:
    progress((stage + done) / num_stages)


def _make(stage: Stage, tracks: Sequence[Track], *, report: Callable[[float], None] | None) -> None:
    """Fills the unknown values of tracks whose source is complete."""
    batch = stage.new_batch()
    for track in tracks:
        batch.add(track)
    while batch.step():
        if report is not None:
            report(min(x.num_done + x.in_work for x in tracks) / tracks[0].num_frames)


def _best(
    stage: LMStage,
    track: Track,
    num_candidates: int,
    *,
    report: Callable[[float], None] | None,
) -> Track:
    """The candidate that makes the known frames after it most likely."""
    behind = _num_behind(track.known)
    candidates = [
        replace(track, values=track.values.clone(), candidate=i)
        for i in range(num_candidates if behind else 1)
    ]
    _make(stage, candidates, report=report)
    if stage.deduplicated:
        candidates = [_merged(one, one.num_frames - behind) for one in candidates]
    if len(candidates) == 1:
        return candidates[0]
    judged = max(1, round(JUDGED_SECONDS * stage.frame_rate))

    def score(one: Track) -> float:
        first = one.num_frames - behind
        return stage.likelihood(one, first, first + judged)

    return max(candidates, key=score)


def _num_behind(known: Tensor) -> int:
    """The number of known frames at the end of [T]."""
    unknown = (~known).nonzero()
    return len(known) - 1 - int(unknown[-1])


def _merged(track: Track, frame: int) -> Track:
    """A deduplicated track without this frame if it repeats the one before."""
    tokens, starts = track.values, track.starts
    assert starts is not None
    if not 0 < frame < track.num_frames or tokens[0, frame] != tokens[0, frame - 1]:
        return track
    return replace(
        track,
        values=torch.cat([tokens[:, :frame], tokens[:, frame + 1 :]], dim=1),
        starts=[*starts[:frame], *starts[frame + 1 :]],
    )


def _span(samples: Tensor, start: float, end: float, sample_rate: int) -> tuple[int, int]:
    first, last = round(start * sample_rate), round(end * sample_rate)
    N = samples.shape[1]
    if not 0 <= first < last <= N:
        raise ValueError(
            f"Expected start < end within the {N / sample_rate:.2f} s of the audio, got {start} to "
            f"{end} s."
        )
    return first, last


def _context(
    num_samples: int, first: int, last: int, stages: Sequence[Stage], renderer: Renderer
) -> tuple[int, int]:
    """The context around a span that fits the models' windows, as a range of samples."""
    most = tail_length(num_samples, stages=stages, renderer=renderer)
    beside = max(most - (last - first), most // 2)
    right = min(num_samples, last + beside // RIGHT_SHARE)
    left = max(0, first - (beside - (right - last)))
    return left // renderer.hop_length * renderer.hop_length, right
