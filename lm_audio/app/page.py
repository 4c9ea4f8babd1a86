"""The page itself: tabs, and what happens when somebody presses a button.

Nothing is loaded from elsewhere. Clips are made one after the other, and those of a visit are kept
until the visit ends.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from torch import Tensor

from audio_tokenizers.audio_files import audio_info
from lm_audio.app.clip_settings import ClipSettings, Verb
from lm_audio.app.playback import LiveSound
from lm_audio.clip import Clip
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import random_seed
from lm_audio.system import releases_omp_threads_between

SURPRISES = (
    "a dog barking in the rain", "heavy rain on a roof", "waves on a beach", "a crackling fire",
    "a helicopter flies over", "a rooster crows", "a clock ticking", "a person sneezing",
    "a baby crying", "a chainsaw", "a slow, sad piano", "a happy, fast marimba", "a music box",
    "drums at a high tempo", "a violin", "wind in the trees and a dog barking",
)  # fmt: skip
LONGEST = 60.0  # seconds of new sound
CACHE_SECONDS = 24 * 3600
LEAST_WIDTH = 300  # of a column: on a phone they lie below each other
CSS = """
.live { height: 0; overflow: hidden }
.gradio-container { max-width: 60rem !important; margin: auto }
@media (max-width: 30rem) { .tab-container button { padding: 0 0.6rem !important } }
"""
Row = dict[str, Any]
"""A clip of the history: its settings, sound and picture."""


def add_page(app: FastAPI, model: AudioPipeline, *, name: str) -> FastAPI:
    """Puts the page at / of a service.

    Args:
        name: what loads the model, for the commands that the page shows.
    """
    live = LiveSound(sample_rate=model.sample_rate, num_channels=model.num_channels)
    live.add_to(app)
    page = Page(model, name=name, live=live)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return gr.mount_gradio_app(
        app,
        page.blocks(),
        path="/",
        theme=theme,
        css=CSS,
        allowed_paths=[page.folder.name],
        footer_links=[],
        ssr_mode=False,
        show_error=True,
    )


class Page:
    """The page of one model."""

    def __init__(self, model: AudioPipeline, *, name: str, live: LiveSound) -> None:
        self.model, self.name, self._live = model, name, live
        self.folder = tempfile.TemporaryDirectory(prefix="lm-audio-")

    def blocks(self) -> gr.Blocks:
        blocks = gr.Blocks(
            title="lm-audio",
            analytics_enabled=False,
            delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
        )
        with blocks:
            gr.Markdown("# lm-audio\nSound becomes tokens, language models continue the tokens.")
            history = gr.State([])
            with gr.Tabs():
                with gr.Tab("Create", id="create"):
                    self._tab("generate", history)
                with gr.Tab("Continue", id="continue"):
                    self._tab("continue", history)
                with gr.Tab("Inpaint", id="inpaint"):
                    self._tab("inpaint", history)
                with gr.Tab("Listen", id="listen"):
                    self._listen(history)
        return blocks

    def _tab(self, verb: Verb, history: gr.State) -> None:
        """What is asked on the left, what comes of it on the right."""
        button = {"generate": "Create", "continue": "Continue", "inpaint": "Fill the span"}[verb]
        with gr.Row():
            with gr.Column(min_width=LEAST_WIDTH):
                inputs = self._inputs(verb)
                with gr.Row():
                    make = gr.Button(button, variant="primary")
                    stop = gr.Button("Stop")
            with gr.Column(min_width=LEAST_WIDTH):
                outputs = [*_outputs(), history]
        asked = partial(self._make_asked, verb)
        begun = gr.on(
            [make.click, *([inputs[0].submit] if verb == "generate" else [])],
            asked,
            [*inputs, history],
            outputs,
            concurrency_limit=1,
            concurrency_id="make",
            show_progress_on=outputs[1],
            api_visibility="private",
        )
        stop.click(lambda: "Stopped.", None, outputs[0], cancels=[begun], api_visibility="private")

    def _inputs(self, verb: Verb) -> list[Any]:
        """What `_make_asked` takes, in its order."""
        audio: Any = gr.State(None)
        first: Any = gr.State(0.0)
        if verb != "generate":
            audio = gr.Audio(
                label="Sound", sources=["upload", "microphone"], type="filepath", editable=False
            )
        text = gr.Textbox(
            label="Text" if verb == "generate" else "Text (optional)",
            placeholder="heavy rain on a roof",
            max_length=1000,
            autofocus=verb == "generate",
        )
        if verb == "generate":
            surprise = gr.Button("Surprise me", size="sm")
            surprise.click(lambda: random.choice(SURPRISES), None, text, api_visibility="private")
        if verb == "inpaint":
            first = gr.Slider(0, LONGEST, 1.0, step=0.05, label="From (seconds)")
            last = gr.Slider(0, LONGEST, 2.0, step=0.05, label="To (seconds)")
            audio.change(_span_of, audio, [first, last], api_visibility="private")
        else:
            last = gr.Slider(0.5, LONGEST, 5.0, step=0.5, label="Seconds of new sound")
        with gr.Accordion("More", open=False):
            negative = gr.Textbox(label="Not like this", placeholder="wind", max_length=1000)
            seed = gr.Number(label="Seed (empty: a new one)", value=None, precision=0, minimum=0)
            scale = gr.Slider(
                1, 10, self._own_scale(), step=0.1, label="Guidance: how closely to follow the text"
            )
        return [text, audio, first, last, negative, seed, scale]

    def _own_scale(self) -> float:
        scale = next(iter(self.model.stages.values())).sampling.guidance_scale
        return max(scale.values()) if isinstance(scale, Mapping) else scale

    def _listen(self, history: gr.State) -> None:
        @gr.render(inputs=history)  # type: ignore[untyped-decorator,unused-ignore]
        def clips(rows: list[Row]) -> None:
            if not rows:
                gr.Markdown("What you make is listed here until you leave.")
            for row in reversed(rows):
                settings: ClipSettings = row["settings"]
                with gr.Group():
                    gr.Markdown(f"**{settings.title}**")
                    gr.Audio(
                        row["sound"], label=settings.title, interactive=False, buttons=["download"]
                    )
                    gr.Image(row["picture"], show_label=False, interactive=False, container=False)
                    status = gr.Markdown()
                    more = gr.Button("More like this", size="sm")
                    more.click(
                        partial(self._make_more, settings),
                        history,
                        [status, history],
                        concurrency_limit=1,
                        concurrency_id="make",
                        api_visibility="private",
                    )

    def _make_asked(
        self,
        verb: Verb,
        text: str,
        audio: str | None,
        first: float,
        last: float,
        negative: str,
        seed: float | None,
        scale: float,
        history: list[Row],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it there
    ) -> Iterator[tuple[Any, ...]]:
        """Yields what `_outputs` shows, and the history."""
        if verb != "generate" and audio is None:
            raise gr.Error("There is no sound yet; upload a file or record one.")
        settings = ClipSettings(
            verb=verb,
            seed=random_seed() if seed is None else int(seed),
            model=self.name,
            text=(text or "").strip() or None,
            negative=(negative or "").strip() or None,
            audio=None if audio is None else Path(audio),
            duration=last,
            span=(first, last),
            guidance_scale=None if scale == self._own_scale() else scale,
        )
        stream = self._live.open()
        player = f'<audio autoplay src="{stream.path}"></audio>'
        told = f"Making {settings.title} ..."
        yield told, None, player, None, settings.command(), settings.python(), history
        try:
            row = None
            for made in self._steps(settings, progress):
                if isinstance(made, Tensor):
                    stream.push(made)
                    yield (gr.skip(),) * 7
                else:
                    row = made
        finally:
            stream.close()
        assert row is not None
        shown = row["sound"], gr.skip(), row["picture"]
        yield f"**{settings.title}**", *shown, gr.skip(), gr.skip(), [*history, row]

    def _make_more(
        self,
        settings: ClipSettings,
        history: list[Row],
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, ...]]:
        """The same settings, the next seed that is not in the history."""
        made = [row["settings"] for row in history]
        while settings in made:
            settings = settings.next()
        for row in self._steps(settings, progress):
            if not isinstance(row, Tensor):
                yield "", [*history, row]

    @releases_omp_threads_between  # gradio may ask for each by another thread
    def _steps(self, settings: ClipSettings, progress: gr.Progress) -> Iterator[Tensor | Row]:
        """New samples [C, N] as they come, then the row of the history."""
        try:
            for made in settings.make(
                self.model, lambda share: progress(share, desc="making sound")
            ):
                yield made if isinstance(made, Tensor) else self._row(settings, made)
        except (ValueError, OSError) as error:
            said = str(error)
            if settings.audio is not None:  # where it lies here tells nobody anything
                said = said.replace(str(settings.audio), settings.audio.name)
            raise gr.Error(said) from error

    def _row(self, settings: ClipSettings, clip: Clip) -> Row:
        folder = Path(tempfile.mkdtemp(dir=self.folder.name))
        sound, picture = folder / f"{settings.verb}-{settings.seed}.wav", folder / "picture.png"
        clip.save(sound)
        clip.plot(picture)
        return {"settings": settings, "sound": str(sound), "picture": str(picture)}


def _outputs() -> list[Any]:
    """Status, sound, what is heard while it is made, picture, command, Python."""
    status = gr.Markdown("What you make is shown here.")
    sound = gr.Audio(label="Result", interactive=False, buttons=["download"])
    live = gr.HTML(elem_classes="live")
    picture = gr.Image(
        label="Waveform and mel spectrogram",
        show_label=False,
        interactive=False,
        buttons=["download", "fullscreen"],
    )
    with gr.Accordion("As a command and as Python", open=False):
        command = gr.Code(label="Command", language="shell", interactive=False)
        python = gr.Code(label="Python", language="python", interactive=False)
    return [status, sound, live, picture, command, python]


def _span_of(audio: str | None) -> tuple[Any, Any]:
    """Sliders that fit a sound, its middle third chosen."""
    try:
        seconds = audio_info(audio).duration if audio else LONGEST
    except (ValueError, OSError):
        return gr.skip(), gr.skip()  # the button says what is wrong
    return (
        gr.Slider(maximum=seconds, value=round(seconds / 3, 2)),
        gr.Slider(maximum=seconds, value=round(2 * seconds / 3, 2)),
    )
