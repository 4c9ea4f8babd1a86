"""The settings of one clip: how it is made step by step, and its command line and Python code.

Shapes: C channels, N samples.
"""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lm_audio.catalogue import DEFAULT
from lm_audio.clip import Clip
from lm_audio.generation.request import as_audio, make_requests
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import AnySampling, adjusted, random_seed

Verb = Literal["generate", "continue", "inpaint"]
PYTHON_VERBS: dict[Verb, str] = {
    "generate": "generate",
    "continue": "continue_from",
    "inpaint": "inpaint",
}


def read_seed(text: str | None) -> int:
    """The seed in a text field; a random one if it is empty."""
    text = (text or "").strip()
    if not text:
        return random_seed()
    if not text.isdecimal():
        raise ValueError(f"Got the seed {text!r}; use a whole number from 0, or leave it empty.")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """The settings of a clip.

    Args:
        model: what `load` takes.
        audio: a file to continue or to inpaint.
        duration: seconds of new sound; unused by an inpainting.
        span: start and end of an inpainting, in seconds.
        guidance_scale: the model's own by default.
    """

    verb: Verb
    seed: int
    model: str = DEFAULT
    text: str | None = None
    negative: str | None = None
    audio: Path | None = None
    duration: float = 5.0
    span: tuple[float, float] = (0.0, 0.0)
    guidance_scale: float | None = None

    @property
    def title(self) -> str:
        """The name of the clip in a history."""
        name = "" if self.audio is None else self.audio.name
        what = {"generate": "", "continue": f"{name}, continued", "inpaint": f"{name}, inpainted"}
        words = [part for part in (what[self.verb], self.text) if part]
        return f"{': '.join(words) or 'anything'} (seed {self.seed})"

    def next(self) -> "ClipSettings":
        """The same with the next seed."""
        return replace(self, seed=self.seed + 1)

    def command(self) -> str:
        """The command line that makes this clip."""
        given = {name.replace("_", "-"): value for name, value in self._settings().items()}
        if self.model != DEFAULT:
            given["model"] = self.model
        prompt = self.audio.name if self.audio else self.text
        words = ["lm-audio", self.verb, *([prompt] if prompt else [])]
        if self.audio is not None and self.text is not None:
            given["text"] = self.text
        for name, value in given.items():
            words += [f"--{name}", value if isinstance(value, str) else f"{value:g}"]
        words[words.index("--seed") + 1] = str(self.seed)  # :g would round it
        return shlex.join([*words, "-o", "clip.wav"])

    def python(self) -> str:
        """The lines that make this clip."""
        name = "" if self.model == DEFAULT else repr(self.model)
        given = self._settings()
        scale = given.pop("guidance_scale", None)
        prompt = self.audio.name if self.audio else self.text
        words = [] if prompt is None else [repr(prompt)]
        if self.audio is not None and self.text is not None:
            given["text"] = self.text
        words += [f"{key}={value!r}" for key, value in given.items()]
        lines = ["import lm_audio", "", f"model = lm_audio.load({name})"]
        if scale is not None:
            lines[1:1] = ["from dataclasses import replace"]
            lines += [
                "sampling = {",
                f"    name: replace(stage.sampling, guidance_scale={scale!r})",
                "    for name, stage in model.stages.items()",
                "}",
            ]
            words.append("sampling=sampling")
        call = f"clip = model.{PYTHON_VERBS[self.verb]}({', '.join(words)})"
        return "\n".join([*lines, call, 'clip.save("clip.wav")'])

    def make(
        self, model: AudioPipeline, progress: Callable[[float], None]
    ) -> Iterator[Tensor | Clip]:
        """The new samples [C, N] as they come, then the clip; an inpainting comes whole."""
        if self.verb != "generate" and self.audio is None:
            raise ValueError("There is no sound yet; upload a file or record one.")
        if self.verb == "inpaint":
            yield self._named(self._inpainted(model, progress))
            return
        (request,) = make_requests(
            self.text,
            duration=self.duration,
            seed=self.seed,
            sample_rate=model.sample_rate,
            negative=self.negative,
            sampling=self._sampling(model),
        )
        job = model.start(request, self._samples(model))
        pieces = []
        for sound in model.session().sound([job]):
            for _, piece in sound:
                pieces.append(piece)
                if piece.shape[1]:
                    yield piece
            progress(job.progress)
        yield self._named(job.clip(pieces))

    def _named(self, clip: Clip) -> Clip:
        """The clip with the model and the audio under the names that the page shows."""
        named = {"model": self.model, "audio": self.audio and self.audio.name, "text_encoder": None}
        return replace(clip, settings={**clip.settings, **named})

    def _inpainted(self, model: AudioPipeline, progress: Callable[[float], None]) -> Clip:
        assert self.audio is not None
        start, end = self.span
        return model.inpaint(
            self.audio,
            start=start,
            end=end,
            text=self.text,
            seed=self.seed,
            sampling=self._sampling(model),
            negative=self.negative,
            progress=progress,
        )

    def _samples(self, model: AudioPipeline) -> Tensor | None:
        """Of the file, if there is one."""
        if self.audio is None:
            return None
        return as_audio(self.audio, sample_rate=model.sample_rate, num_channels=model.num_channels)

    def _sampling(self, model: AudioPipeline) -> dict[str, AnySampling] | None:
        if self.guidance_scale is None:
            return None
        samplings = {name: stage.sampling for name, stage in model.stages.items()}
        return adjusted(samplings, {"guidance_scale": self.guidance_scale})

    def _settings(self) -> dict[str, Any]:
        """The settings that command and Python code share."""
        of_verb: dict[str, Any] = {"duration": self.duration}
        if self.verb == "inpaint":
            of_verb = dict(zip(("start", "end"), self.span, strict=True))
        given = {
            **of_verb,
            "seed": self.seed,
            "negative": self.negative,
            "guidance_scale": self.guidance_scale,
        }
        return {name: value for name, value in given.items() if value is not None}
