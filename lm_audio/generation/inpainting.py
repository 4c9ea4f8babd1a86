"""Inpainting: a span of audio made anew between what comes before and after it.

A token language model sees only what came before. So each stage fills the span several times, each
time from the same left context, and keeps the filling after which the true sound behind the span is
the most likely under the model.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.cascade import Cascade
from lm_audio.generation.lm_stage import Stage
from lm_audio.generation.plan import make_runs
from lm_audio.generation.prompt import Prompt, tail_length
from lm_audio.generation.request import Request
from lm_audio.generation.track import AnyStage, Run
from lm_audio.renderers.protocol import Renderer
from lm_audio.renderers.seam import inpainted

RIGHT_SHARE = 4  # a quarter of what a model sees beside the span lies behind it
JUDGED_SECONDS = 1.0  # of the sound behind the span


def inpaint(
    request: Request,
    samples: Tensor,
    *,
    start: float,
    end: float,
    stages: Sequence[AnyStage],
    renderer: Renderer,
    output_stages: Sequence[str],
    read: Callable[[Tensor], Prompt],
    num_candidates: int,
    progress: Callable[[float], None] | None,
) -> Clip:
    """The samples [C, N], those from `start` to `end` seconds made anew."""
    first, last = _span(samples, start, end, renderer.sample_rate)
    if num_candidates < 1:
        raise ValueError(f"num_candidates is {num_candidates}; use at least 1.")
    left, right = _context(samples.shape[1], first, last, stages, renderer)
    prompt = read(samples[:, left:right])
    plan = make_runs(
        request,
        stages=stages,
        renderer=renderer,
        output_stages=output_stages,
        num_samples=right - left,
        prompt=None,
    )
    chosen: dict[str, Run] = {}
    for i, stage in enumerate(stages):
        if not isinstance(stage, Stage):
            raise ValueError(f"The {stage.name} stage of this model cannot fill a span.")
        tokens, starts = prompt.around(stage, renderer, first=first - left, last=last - left)
        source = None if stage.source is None else chosen[stage.source.stage]
        run = replace(plan[stage.name], tokens=tokens, starts=starts, source=source)
        behind = _num_behind(tokens)
        count = num_candidates if behind else 1
        candidates = [replace(run, tokens=tokens.clone(), variant=v) for v in range(count)]
        report = None if progress is None else partial(_report, progress, i, len(stages))
        chosen[stage.name] = _best(stage, candidates, behind, report=report)
    tokens = torch.cat([chosen[name].tokens for name in output_stages])
    sound = renderer.render(tokens, num_samples=right - left).cpu().float()
    filled = inpainted(
        samples[:, left:right],
        sound,
        start=first - left,
        end=last - left,
        sample_rate=renderer.sample_rate,
    )
    return Clip(
        samples=torch.cat([samples[:, :left], filled, samples[:, right:]], dim=1),
        sample_rate=renderer.sample_rate,
        tokens=tokens.cpu(),
        stage_tokens={name: run.tokens.cpu() for name, run in chosen.items()},
        seed=request.seed,
        prompt=request.prompt,
    )


def _report(progress: Callable[[float], None], stage: int, num_stages: int, done: float) -> None:
    progress((stage + done) / num_stages)


def _best(
    stage: Stage, candidates: list[Run], behind: int, *, report: Callable[[float], None] | None
) -> Run:
    """The candidate that the last `behind` frames, those of the sound, follow best."""
    cascade = Cascade([stage])
    for run in candidates:
        cascade.add([run])
    while cascade.step():
        if report is not None:
            report(min(run.num_done for run in candidates) / candidates[0].num_frames)
    if not stage.repeats:
        candidates = [_merged(run, run.num_frames - behind) for run in candidates]
    if len(candidates) == 1:
        return candidates[0]
    judged = max(1, round(JUDGED_SECONDS * stage.frame_rate))

    def score(run: Run) -> float:
        first = run.num_frames - behind
        return stage.likelihood(run, first, first + judged)

    return max(candidates, key=score)


def _num_behind(tokens: Tensor) -> int:
    """How many frames at the end of tokens [K, T] are known."""
    unknown = (tokens < 0).any(dim=0).nonzero()
    return tokens.shape[1] - 1 - int(unknown[-1])


def _merged(run: Run, frame: int) -> Run:
    """A de-duplicated run without this frame if it repeats the one before, which then lasts on."""
    tokens, starts = run.tokens, run.starts
    assert starts is not None
    if not 0 < frame < run.num_frames or tokens[0, frame] != tokens[0, frame - 1]:
        return run
    return replace(
        run,
        tokens=torch.cat([tokens[:, :frame], tokens[:, frame + 1 :]], dim=1),
        starts=[*starts[:frame], *starts[frame + 1 :]],
    )


def _span(samples: Tensor, start: float, end: float, sample_rate: int) -> tuple[int, int]:
    first, last = round(start * sample_rate), round(end * sample_rate)
    N = samples.shape[1]
    if not 0 <= first < last <= N:
        raise ValueError(
            f"Got a span from {start} to {end} s; give a start before the end, within the "
            f"{N / sample_rate:.2f} s of the audio."
        )
    return first, last


def _context(
    num_samples: int, first: int, last: int, stages: Sequence[AnyStage], renderer: Renderer
) -> tuple[int, int]:
    """From where to where the models look: what they can see at once, on both sides."""
    most = tail_length(num_samples, stages=stages, renderer=renderer)
    beside = max(most - (last - first), most // 2)
    right = min(num_samples, last + beside // RIGHT_SHARE)
    left = max(0, first - (beside - (right - last)))
    return left // renderer.hop_length * renderer.hop_length, right
