"""Picks the fastest precision whose predictions stay close to float32.

The float32 model generates a clip, and the rounded model scores its tokens. The divergence is half
the mean squared difference of their log-likelihoods, in nats per token: for tokens sampled at
temperature 1, an estimate of the Kullback-Leibler divergence that needs few tokens. Clips are made
with the model's default sampling, so that it is measured on the tokens that users get.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch

from lm_audio.conditioners.label import LabelConditioner
from lm_audio.generation.request import make_requests
from lm_audio.generation.token_stage import TokenStage
from lm_audio.generation.track import Track
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Sampling

logger = logging.getLogger(__name__)

SECONDS = 3.0
PROMPT = "a dog barking"
MOST_NATS = 0.01
"""The largest accepted divergence: it changes the perplexity of generated tokens by 1 %."""


def fastest(load: Callable[[str], AudioPipeline], dtypes: Sequence[str]) -> AudioPipeline:
    """The first of these precisions, given fastest first, that is close enough; else float32."""
    exact = load("float32")
    if not any(isinstance(stage, TokenStage) for stage in exact.stages.values()):
        logger.info("Kept float32, because this model has no language model to measure.")
        return exact
    tracks = new_clip(exact)
    for dtype in dtypes:
        rounded = load(dtype)
        nats = divergence(exact, rounded, tracks)
        fits = nats <= MOST_NATS
        logger.info(
            "Divergence of %s from float32: %.4f nats per token (%s).",
            dtype,
            nats,
            "close enough" if fits else f"limit {MOST_NATS}",
        )
        if fits:
            return rounded
    return exact


def new_clip(pipeline: AudioPipeline, sampling: Sampling | None = None) -> Mapping[str, Track]:
    """The tokens of a new clip by stage; uses the model's default sampling by default."""
    (request,) = make_requests(
        _prompt(pipeline),
        duration=SECONDS,
        seed=0,
        sample_rate=pipeline.sample_rate,
        sampling=sampling,
    )
    job = pipeline.start(request)
    for _ in pipeline.session().sound([job]):
        pass
    return job.tracks


def _prompt(pipeline: AudioPipeline) -> str | None:
    """A text prompt, if the model takes text."""
    for stage in pipeline.stages.values():
        if "text" in stage.conditions:
            reader = stage.conditioners["text"] if isinstance(stage, TokenStage) else None
            return reader.labels[0] if isinstance(reader, LabelConditioner) else PROMPT
    return None


def divergence(exact: AudioPipeline, rounded: AudioPipeline, tracks: Mapping[str, Track]) -> float:
    """The divergence of a rounded model from the exact one, in nats per token, worst stage."""
    worst = 0.0
    for name, stage in exact.stages.items():
        other = rounded.stages[name]
        if isinstance(stage, TokenStage):  # others are not rounded
            assert isinstance(other, type(stage))
            stop = min(tracks[name].num_frames, stage.window_frames)
            found = [one.likelihoods(tracks[name], 0, stop) for one in (stage, other)]
            worst = max(worst, float(torch.sub(*found).square().mean()) / 2)
    return worst
