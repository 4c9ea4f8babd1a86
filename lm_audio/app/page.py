"""The web page: tabs, and what happens when a button is pressed.

The page loads nothing from other hosts. One clip is made at a time. The clips of a visit are kept
until the visit ends.
"""

import html
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from torch import Tensor

from audio_tokenizers.audio_files import audio_info, channel_layout
from lm_audio.app.clip_settings import ClipSettings, Verb, read_seed
from lm_audio.app.playback import LiveSound
from lm_audio.clip import Clip
from lm_audio.pipeline import AudioPipeline
from lm_audio.system import releases_omp_threads_between

LONGEST = 60.0  # seconds of new sound
CACHE_SECONDS = 24 * 3600
COLUMN_WIDTH = 300  # pixels at least; on a phone the columns are stacked
EXAMPLES_PER_PAGE = 12
BUTTONS: dict[Verb, str] = {"generate": "Create", "continue": "Continue", "inpaint": "Fill"}
CSS = """
.live { height: 0; overflow: hidden }
.gradio-container, .gradio-container main { width: 100% !important }
.gradio-container { max-width: 60rem !important; margin: auto }
.clip { border-top: 1px solid var(--border-color-primary); padding-top: 1rem }
button[role=tab][aria-selected=true] { color: #1d4ed8 }
.dark button[role=tab][aria-selected=true] { color: #93c5fd }
@media (max-width: 30rem) { .tab-container button { padding: 0 0.6rem !important } }
"""
PLAYER = gr.WaveformOptions(show_recording_waveform=False)
"""The browser's own player: the picture below it shows the waveform."""
CODE: dict[str, Any] = {
    "interactive": False, "lines": 1, "wrap_lines": True, "show_line_numbers": False,
}  # fmt: skip
Row = dict[str, Any]
"""A clip of the history: its settings, sound, picture and notice."""


def add_page(app: FastAPI, model: AudioPipeline, *, name: str) -> FastAPI:
    """Mounts the page at / of a service.

    Args:
        name: what `load` takes for this model, for the commands that the page shows.
    """
    live = LiveSound(sample_rate=model.sample_rate, num_channels=model.num_channels)
    live.add_to(app)
    page = Page(model, name=name, live=live)
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ).set(  # a contrast of text above 4.5
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )
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


@dataclass(frozen=True)
class Result:
    """The components on the right of a tab."""

    status: gr.Markdown
    sound: gr.Audio
    live: gr.HTML
    picture: gr.Image
    command: gr.Code
    python: gr.Code


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
            gr.Markdown(self._heading())
            history = gr.State([])
            with gr.Tabs():
                with gr.Tab("Create", id="create"):
                    self._tab("generate", history)
                with gr.Tab("Continue", id="continue"):
                    self._tab("continue", history)
                with gr.Tab("Inpaint", id="inpaint"):
                    self._tab("inpaint", history)
                with gr.Tab("History", id="history"):
                    self._history(history)
        return blocks

    def _heading(self) -> str:
        channels = channel_layout(self.model.num_channels)
        facts = [self.name, f"{self.model.sample_rate / 1000:g} kHz {channels}"]
        facts += [f"licence {self.model.card.licence}"] if self.model.card.licence else []
        return (
            "# lm-audio\nDescribe a sound, continue a recording or replace a part of it. "
            f"Model: {', '.join(facts)}."
        )

    def _tab(self, verb: Verb, history: gr.State) -> None:
        """Inputs on the left, the result on the right."""
        with gr.Row():
            with gr.Column(min_width=COLUMN_WIDTH):
                inputs = self._inputs(verb)
                with gr.Row():
                    make = gr.Button(BUTTONS[verb], variant="primary")
                    stop = gr.Button("Stop", variant="secondary", interactive=False)
            with gr.Column(min_width=COLUMN_WIDTH):
                result = _result()
        begun = gr.on(
            [make.click, *([inputs[0].submit] if verb == "generate" else [])],
            partial(self._make_clip, verb, result, stop, history),
            [*inputs, history],
            [*vars(result).values(), stop, history],
            concurrency_limit=1,
            concurrency_id="make",
            show_progress_on=result.sound,
            api_visibility="private",
        )
        stop.click(
            lambda: ("Stopped.", gr.Button(interactive=False)),
            None,
            [result.status, stop],
            cancels=[begun],
            api_visibility="private",
        )

    def _inputs(self, verb: Verb) -> list[Any]:
        """The inputs of `_make_clip`, in its order."""
        audio: Any = gr.State(None)
        first: Any = gr.State(0.0)
        if verb != "generate":
            audio = gr.Audio(
                label="Sound",
                sources=["upload", "microphone"],
                type="filepath",
                editable=False,
                buttons=[],
                waveform_options=PLAYER,
            )
        text = gr.Textbox(
            label="Prompt" if verb == "generate" else "Prompt (optional)",
            placeholder="heavy rain on a roof",
            max_length=1000,
            autofocus=verb == "generate",
        )
        known = self.model.card.known
        if verb == "generate" and known is not None:
            gr.Examples(
                [[prompt] for prompt in known.first_examples],
                text,
                examples_per_page=EXAMPLES_PER_PAGE,
                api_visibility="private",
            )
        if verb == "inpaint":
            first = gr.Slider(0, LONGEST, 1.0, step=0.05, label="From (seconds)")
            last = gr.Slider(0, LONGEST, 2.0, step=0.05, label="To (seconds)")
            audio.change(_span_of, audio, [first, last], api_visibility="private")
        else:
            last = gr.Slider(0.5, LONGEST, 5.0, step=0.5, label="Seconds of new sound")
        with gr.Accordion("Settings", open=False):
            negative = gr.Textbox(label="Negative prompt", placeholder="wind", max_length=1000)
            # A Textbox: an empty Number sends 0 once it has been shown.
            seed = gr.Textbox(
                label="Seed", placeholder="random", info="Leave empty for a new seed each time."
            )
            own = self._own_scale()
            scale = gr.Slider(
                1, max(10, own), own, step=0.1, label="Guidance: how closely to follow the text"
            )
        return [text, audio, first, last, negative, seed, scale]

    def _own_scale(self) -> float:
        settings = [stage.sampling for stage in self.model.stages.values()]
        scale = next((one.guidance_scale for one in settings if one is not None), 1.0)
        return max(scale.values()) if isinstance(scale, Mapping) else scale

    def _history(self, history: gr.State) -> None:
        @gr.render(inputs=history)  # type: ignore[untyped-decorator,unused-ignore]
        def clips(rows: list[Row]) -> None:
            if not rows:
                gr.Markdown("Your clips are listed here until you leave the page.")
            for row in reversed(rows):
                settings: ClipSettings = row["settings"]
                with gr.Column(elem_classes="clip"):
                    gr.Markdown(_title(row))
                    gr.Audio(
                        row["sound"],
                        show_label=False,
                        interactive=False,
                        buttons=[],  # the player has its own
                        waveform_options=PLAYER,
                    )
                    gr.Image(
                        row["picture"], show_label=False, interactive=False, buttons=["download"]
                    )
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

    def _make_clip(
        self,
        verb: Verb,
        result: Result,
        stop: gr.Button,
        history: gr.State,
        text: str,
        audio: str | None,
        first: float,
        last: float,
        negative: str,
        seed: str,
        scale: float,
        rows: list[Row],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it there
    ) -> Iterator[dict[Any, Any]]:
        """Yields the components that change, with their new values."""
        stream = self._live.open()
        try:
            settings = ClipSettings(
                verb=verb,
                seed=read_seed(seed),
                model=self.name,
                text=(text or "").strip() or None,
                negative=(negative or "").strip() or None,
                audio=None if audio is None else Path(audio),
                duration=last,
                span=(first, last),
                guidance_scale=None if scale == self._own_scale() else scale,
            )
            yield {
                result.status: f"Making {settings.title} ...",
                result.sound: None,
                result.live: f'<audio autoplay src="{stream.path}"></audio>',
                result.picture: None,
                result.command: settings.command(),
                result.python: settings.python(),
                stop: gr.Button(interactive=True),
            }
            for made in self._steps(settings, progress):
                if isinstance(made, Tensor):
                    stream.push(made)
                    yield {result.status: gr.skip()}
                else:
                    yield {
                        result.status: _title(made),
                        result.sound: made["sound"],
                        result.picture: made["picture"],
                        stop: gr.Button(interactive=False),
                        history: [*rows, made],
                    }
        except (ValueError, OSError) as error:
            message = _message(error, audio)
            yield {result.status: f"**Error:** {message}", stop: gr.Button(interactive=False)}
            raise gr.Error(message, print_exception=False) from error
        finally:
            stream.close()

    def _make_more(
        self,
        settings: ClipSettings,
        history: list[Row],
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, ...]]:
        """The same settings with the next seed that is not in the history."""
        made = [row["settings"] for row in history]
        while settings in made:
            settings = settings.next()
        try:
            for row in self._steps(settings, progress):
                if not isinstance(row, Tensor):
                    yield "", [*history, row]
        except (ValueError, OSError) as error:
            raise gr.Error(_message(error, settings.audio), print_exception=False) from error

    @releases_omp_threads_between  # gradio may call each step from another thread
    def _steps(self, settings: ClipSettings, progress: gr.Progress) -> Iterator[Tensor | Row]:
        """New samples [C, N] as they are made, then the row of the history."""
        for made in settings.make(self.model, lambda share: progress(share, desc="making sound")):
            yield made if isinstance(made, Tensor) else self._row(settings, made)

    def _row(self, settings: ClipSettings, clip: Clip) -> Row:
        folder = Path(tempfile.mkdtemp(dir=self.folder.name))
        sound, picture = folder / f"{settings.verb}-{settings.seed}.wav", folder / "picture.png"
        clip.save(sound)
        clip.plot(picture)
        return {
            "settings": settings,
            "sound": str(sound),
            "picture": str(picture),
            "notice": self.model.notice(settings.text),
        }


def _result() -> Result:
    status = gr.Markdown("Your clip appears here.")
    sound = gr.Audio(
        label="Result", interactive=False, buttons=["download"], waveform_options=PLAYER
    )
    live = gr.HTML(elem_classes="live")
    picture = gr.Image(
        label="Waveform and mel spectrogram",
        show_label=False,
        interactive=False,
        buttons=["download"],
    )
    with gr.Accordion("As a command and as Python", open=False):
        command = gr.Code(label="Command", language="shell", **CODE)
        python = gr.Code(label="Python", language="python", **CODE)
    return Result(status, sound, live, picture, command, python)


def _title(row: Row) -> str:
    """The heading of a clip in Markdown, and the notice for an unknown prompt."""
    title = f"**{row['settings'].title}**"
    return f"{title}\n\n{row['notice']}" if row["notice"] else title


def _message(error: Exception, audio: str | Path | None) -> str:
    """What went wrong as HTML, without the folder of an upload on this machine."""
    message = str(error)
    if audio is not None:
        message = message.replace(str(audio), Path(audio).name)
    return html.escape(message, quote=False)


def _span_of(audio: str | None) -> tuple[Any, Any]:
    """Sliders that fit a sound, set to its middle third."""
    try:
        seconds = audio_info(audio).duration if audio else LONGEST
    except (ValueError, OSError):
        return gr.skip(), gr.skip()  # the button shows the error
    return (
        gr.Slider(maximum=seconds, value=round(seconds / 3, 2)),
        gr.Slider(maximum=seconds, value=round(2 * seconds / 3, 2)),
    )
