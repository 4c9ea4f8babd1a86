"""The fastest precision in which a model still says what it says exactly.

The exact model makes a clip. A rounded one is asked how likely it finds each of its tokens: half
the mean square of the differences of these log-likelihoods is how far its choices are off, in nats
a token. Of tokens drawn plainly it estimates their Kullback-Leibler divergence, from few of them;
as a model samples by custom, it judges those that are heard.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch

from lm_audio.conditioners.label import LabelConditioner
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.request import make_requests
from lm_audio.generation.track import Track
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Sampling

logger = logging.getLogger(__name__)

SECONDS = 3.0
PROMPT = "a dog barking"
MOST_NATS = 0.01
"""By which choices may be off: the perplexity of what a model makes changes by one in a hundred."""


def fastest(load: Callable[[str], AudioPipeline], dtypes: Sequence[str]) -> AudioPipeline:
    """The first of these precisions, the fastest first, that is near enough; else float32."""
    exact = load("float32")
    tracks = new_clip(exact)
    for dtype in dtypes:
        rounded = load(dtype)
        nats = divergence(exact, rounded, tracks)
        fits = nats <= MOST_NATS
        logger.info(
            "As %s this model is off by %.4f nats a token: %s.",
            dtype,
            nats,
            "near enough" if fits else f"more than {MOST_NATS}",
        )
        if fits:
            return rounded
    return exact


def new_clip(pipeline: AudioPipeline, sampling: Sampling | None = None) -> Mapping[str, Track]:
    """The tokens of a clip that a model makes, by stage; sampled as is its custom by default."""
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
    """A text that the model takes, if it takes any."""
    for stage in pipeline.stages.values():
        if "text" in stage.conditions:
            reader = stage.conditioners["text"] if isinstance(stage, LMStage) else None
            return reader.labels[0] if isinstance(reader, LabelConditioner) else PROMPT
    return None


def divergence(exact: AudioPipeline, rounded: AudioPipeline, tracks: Mapping[str, Track]) -> float:
    """How far a rounded model's choices are off, in nats a token, in its worst stage."""
    worst = 0.0
    for name, stage in exact.stages.items():
        other = rounded.stages[name]
        if isinstance(stage, LMStage) and isinstance(other, LMStage):  # others are not rounded
            stop = min(tracks[name].num_frames, stage.window_frames)
            found = [one.likelihoods(tracks[name], 0, stop) for one in (stage, other)]
            worst = max(worst, float(torch.sub(*found).square().mean()) / 2)
    return worst
