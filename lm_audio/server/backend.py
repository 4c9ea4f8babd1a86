"""What the routes share: bodies become jobs of the engine.

Shapes: C channels, N samples.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.families.table import MODELS
from lm_audio.generation.request import PromptLike, Request, make_requests
from lm_audio.generation.takes import score_of
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.description import describe
from lm_audio.server.engine import BatchJob, Engine, Inpainter, Job
from lm_audio.server.guard import Limits, Metrics
from lm_audio.server.wire import (
    CommonFields,
    GenerationBody,
    GenerationFields,
    InpaintingBody,
    RequestError,
    VariationBody,
)
from lm_audio.system import releases_omp_threads

OPENAI_MODEL = re.compile(r"(tts-1|tts-1-hd|gpt-4o-mini-tts)(-\d{4}|-\d{4}-\d{2}-\d{2})?")
"""OpenAI's speech models and their dated versions, which stand for the served model."""
FILES = ("audio", "image", "video")
"""Conditions whose values are files, beside the melody."""
MAX_IGNORED = 20  # fields that a response names


class Backend:
    """The engine, the limits and the name of one server.

    Args:
        strict: refuse fields that have no effect instead of naming them in a header.
    """

    def __init__(self, engine: Engine, *, name: str, limits: Limits, strict: bool = False) -> None:
        self.engine, self.name, self.limits, self.strict = engine, name, limits, strict
        self.inpainter = Inpainter(max_queue=engine.max_queue)
        self.metrics = Metrics(engine, self.inpainter)
        self.created = int(time.time())
        self.voices = _voices(engine.pipeline)
        self.model = describe(
            engine.pipeline,
            name=name,
            created=self.created,
            voices=self.voices,
            limits=limits,
        )

    @property
    def pipeline(self) -> AudioPipeline:
        return self.engine.pipeline

    def check_model(self, name: str | None) -> None:
        if name is None or name == self.name or OPENAI_MODEL.fullmatch(name):
            return
        raise RequestError(
            f"Unknown model {name!r}. Use {self.name!r}.",
            status=404,
            code="model_not_found",
            param="model",
        )

    def ignored(self, fields: Sequence[str]) -> dict[str, str]:
        """The header that names fields without effect, or none."""
        if fields and self.strict:
            raise RequestError(
                f"No effect on this model: {', '.join(fields[:MAX_IGNORED])}. "
                "Leave it out, or start the server without --strict.",
                code="unsupported_parameter",
                param=fields[0],
            )
        # Names are the client's, so nothing but letters, digits and %XX may reach the header.
        names = [quote(name, safe="")[:80] or '""' for name in fields[:MAX_IGNORED]]
        return {"x-ignored-fields": ", ".join(names)} if names else {}

    async def notice(self, prompt: str | None) -> dict[str, str]:
        """The header that says that the model was not trained on such prompts, or none."""
        found = await self.notice_text(prompt)
        return {} if found is None else {"x-notice": quote(found, safe=" ,.:;()'")}

    async def notice_text(self, prompt: str | None) -> str | None:
        """One sentence if the model was not trained on such prompts."""
        return await run_in_threadpool(releases_omp_threads(self.pipeline.notice), prompt)

    def request(
        self, body: CommonFields, *, prompt: PromptLike, seed: int, duration: float
    ) -> Request:
        """The engine's request for a clip; raises for what the model or the server refuses."""
        self._check(body, seconds=duration)
        (request,) = make_requests(
            prompt,
            duration=duration,
            seed=seed,
            sample_rate=self.pipeline.sample_rate,
            negative=body.negative,
            conditions=body.conditions,
            sampling=body.sampling_of(self.pipeline.stages),
            raw=body.raw,
        )
        return request

    async def submit(self, request: Request, *, audio: Tensor | None = None) -> Job:
        """Queues a clip, after the samples [C, N] of `audio` if there are any."""
        job = BatchJob(request, prompt=audio, timeout=self.limits.timeout)
        await run_in_threadpool(self.engine.submit, job)
        return job

    async def generate(
        self,
        body: GenerationFields,
        *,
        prompt: str | None,
        seed: int,
        audio: Tensor | None = None,
        melody: Tensor | None = None,
    ) -> Job:
        """Queues new sound.

        Args:
            audio: samples [C, N] that it continues.
            melody: samples [C, N] whose melody it follows.
        """
        given: list[PromptLike] = [prompt]
        loop = False
        if isinstance(body, GenerationBody):
            given += [body.story, body.blend]
            loop = body.loop
        given = [one for one in given if one is not None] or [None]
        if len(given) > 1:
            raise ValueError("Give only one of prompt, story and blend.")
        request = self.request(body, prompt=given[0], seed=seed, duration=body.duration)
        conditions = dict(request.conditions)
        if melody is not None:
            conditions["melody"] = (melody, self.pipeline.sample_rate)
        return await self.submit(replace(request, loop=loop, conditions=conditions), audio=audio)

    async def vary(self, body: VariationBody, audio: Tensor) -> Job:
        """Queues a variation of samples [C, N]."""
        seconds = audio.shape[1] / self.pipeline.sample_rate
        seed = body.seed_or_random()
        request = self.request(body, prompt=body.prompt, seed=seed, duration=seconds)
        return await self.submit(replace(request, strength=body.strength), audio=audio)

    def inpaint(self, body: InpaintingBody, audio: Tensor) -> Job:
        """Queues the samples [C, N] with a span of them replaced."""
        self._check(body, seconds=body.end - body.start)
        job = Job(seed=body.seed_or_random(), timeout=self.limits.timeout)
        work = partial(
            self.pipeline.inpaint,
            (audio, self.pipeline.sample_rate),
            start=body.start,
            end=body.end,
            text=body.prompt,
            seed=job.seed,
            sampling=body.sampling_of(self.pipeline.stages),
            negative=body.negative,
            conditions=body.conditions,
            num_candidates=body.candidates,
            raw=body.raw,
        )
        self.inpainter.submit(job, work)
        return job

    def settings_of(self, job: Job, clip: Clip) -> dict[str, Any]:
        """What reproduces a job's clip, without the paths of this server."""
        shown = {name: value for name, value in clip.settings.items() if name != "text_encoder"}
        uploads = {use: PurePath(name).name for use, name in job.uploads.items()}
        if "melody" in uploads:  # the only condition that is not text
            given = shown.pop("conditions")
            texts = [f"{name}={text}" for name, text in given.items() if name != "melody"]
            shown |= {"condition": texts} if texts else {}
        return {**shown, **uploads, "model": self.name}

    async def score(self, job: Job, clip: Clip) -> float | None:
        """How well new sound fits its prompt; None without a judge or a prompt."""
        judge = self.pipeline.model.judge
        if judge is None or not isinstance(job, BatchJob) or job.prompt is not None:
            return None
        if job.request.prompt is None:
            return None
        score = await run_in_threadpool(releases_omp_threads(score_of), clip, job.request, judge)
        return round(score, 4)

    def check_melody(self) -> None:
        """Raises ValueError for a model that takes no melody."""
        if "melody" not in self.pipeline.conditions:
            names = ", ".join(one.name for one in MODELS if "melody" in one.abilities)
            raise ValueError(f"This model cannot follow a melody. Models that can: {names}.")

    def position(self, job: Job) -> int:
        """The place of a job in its queue, from 1; 0 once it is being made."""
        if isinstance(job, BatchJob):
            return self.engine.position(job)
        return self.inpainter.position(job)

    def close(self) -> None:
        """Finishes all open jobs."""
        self.engine.close()
        self.inpainter.close()

    def _check(self, body: CommonFields, *, seconds: float) -> None:
        self.check_model(body.model)
        self.limits.check_duration(seconds)
        # The pipeline takes the paths of files for these, which a client must not name.
        for name in FILES:
            if name in body.conditions and name in self.pipeline.conditions:
                raise RequestError(
                    f"The condition {name} takes a file of this machine, so it is not available "
                    "over HTTP. Use Python or the command line.",
                    code="unsupported_parameter",
                    param=f"conditions.{name}",
                )
        if "melody" in body.conditions and "melody" in self.pipeline.conditions:
            raise RequestError(
                "Send the melody as a file to /v1/audio/melodies.",
                code="unsupported_parameter",
                param="conditions.melody",
            )
        voice = body.conditions.get("voice")
        if voice is not None and "voice" in self.pipeline.conditions and voice not in self.voices:
            known = ", ".join(self.voices[:8]) or "none"
            raise RequestError(
                f"Unknown voice {voice!r}. Voices of this model: {known}.",
                code="invalid_value",
                param="conditions.voice",
            )


def _voices(pipeline: AudioPipeline) -> tuple[str, ...]:
    """The names of the voices that a model brings with it."""
    found: dict[str, None] = {}
    for stage in pipeline.stages.values():
        voices = getattr(stage, "voices", None)
        found |= dict.fromkeys([] if voices is None else voices.names())
    return tuple(found)
