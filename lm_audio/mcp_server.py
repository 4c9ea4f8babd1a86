"""A Model Context Protocol server: tools that generate, continue and inpaint audio files.

It speaks over stdin and stdout, where nothing else may be written; the SDK redirects prints to
stderr. The model is loaded in the background, since clients wait only seconds for a server to
start. One clip is made at a time.
"""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import anyio.from_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import AudioWriter
from lm_audio.clip import Clip
from lm_audio.pipeline import DEFAULT_SECONDS, AudioPipeline
from lm_audio.sampling import random_seed
from lm_audio.version import __version__

Audio = Annotated[str, Field(description="Path of a WAV, FLAC, OGG, Opus or MP3 file.")]
Prompt = Annotated[str | None, Field(description="Description of the new sound.")]
Seconds = Annotated[float, Field(description="Seconds of new sound.")]
Seed = Annotated[
    int | None, Field(description="The same seed gives the same clip; random by default.")
]
Output = Annotated[
    str | None,
    Field(description="New .wav, .flac, .ogg, .opus or .mp3 file; by default one in a folder."),
]
LONGEST_NAME = 60  # characters
PROGRESS_STEP = 0.02  # of a clip

Progress = Callable[[float], None]


class Result(BaseModel):
    """The written file, and the settings that make it again."""

    path: str
    duration: float
    sample_rate: int
    settings: dict[str, Any]


def create_server(load: Callable[[], AudioPipeline], *, output_dir: Path) -> MCPServer:
    """The server of one model.

    Args:
        load: loads the model; called at once, on another thread.
        output_dir: where clips go that get no path.
    """
    server: MCPServer = MCPServer(
        "lm-audio", version=__version__, instructions="Generates sound effects and music as files."
    )
    tools = Tools(load, output_dir=output_dir)
    for tool in (tools.generate, tools.continue_audio, tools.inpaint):
        server.add_tool(tool)
    return server


class Tools:
    """The tools; their signatures and docstrings are what clients see."""

    def __init__(self, load: Callable[[], AudioPipeline], *, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._model = ThreadPoolExecutor(1, thread_name_prefix="loading").submit(load)
        self._one_at_a_time = threading.Lock()

    def generate(
        self,
        context: Context,
        prompt: Annotated[str, Field(description="Description of the sound.")],
        duration: Seconds = DEFAULT_SECONDS,
        seed: Seed = None,
        output: Output = None,
        negative: Annotated[str | None, Field(description="What to avoid.")] = None,
    ) -> Result:
        """Generate a sound from a text, as a file."""
        settings: dict[str, Any] = {"prompt": prompt, "duration": duration, "seed": _drawn(seed)}
        settings["negative"] = negative

        def work(model: AudioPipeline, progress: Progress) -> Clip:
            return model.generate(**settings, progress=progress)

        return self._make(context, prompt, output, work, settings)

    def continue_audio(
        self,
        context: Context,
        audio: Audio,
        duration: Seconds = DEFAULT_SECONDS,
        prompt: Prompt = None,
        seed: Seed = None,
        output: Output = None,
    ) -> Result:
        """Continue an audio file: its own samples, then new sound, as a new file."""
        settings: dict[str, Any] = {"duration": duration, "text": prompt, "seed": _drawn(seed)}

        def work(model: AudioPipeline, progress: Progress) -> Clip:
            return model.continue_from(_readable(audio), **settings, progress=progress)

        given = {"audio": audio, **settings}
        return self._make(context, f"{Path(audio).stem} continued", output, work, given)

    def inpaint(
        self,
        context: Context,
        audio: Audio,
        start: Annotated[float, Field(description="Start of the span in seconds.")],
        end: Annotated[float, Field(description="End of the span in seconds.")],
        prompt: Prompt = None,
        seed: Seed = None,
        output: Output = None,
    ) -> Result:
        """Regenerate a span of an audio file, as a new file; all other samples are kept."""
        settings: dict[str, Any] = {"start": start, "end": end, "text": prompt}
        settings["seed"] = _drawn(seed)

        def work(model: AudioPipeline, progress: Progress) -> Clip:
            return model.inpaint(_readable(audio), **settings, progress=progress)

        given = {"audio": audio, **settings}
        return self._make(context, f"{Path(audio).stem} inpainted", output, work, given)

    def _make(
        self,
        context: Context,
        name: str,
        output: str | None,
        work: Callable[[AudioPipeline, Progress], Clip],
        settings: dict[str, Any],
    ) -> Result:
        """Makes and writes a clip; a user's mistake becomes one sentence."""
        try:
            path = self._path(output, name=f"{name} {settings['seed']}")
            with self._one_at_a_time:
                clip = work(self._model.result(), _reported(context))
            clip.save(path)
        except (ValueError, OSError, ImportError) as error:
            raise ToolError(" ".join(str(error).split())) from error
        return Result(
            path=str(path),
            duration=clip.duration,
            sample_rate=clip.sample_rate,
            settings={**settings, "model": clip.model},
        )

    def _path(self, output: str | None, *, name: str) -> Path:
        """Where a clip goes; no existing file is overwritten."""
        if output is None:
            words = "-".join(re.findall(r"\w+", name.lower()))[-LONGEST_NAME:].strip("-")
            path, number = self._output_dir / f"{words}.wav", 1
            while path.exists():
                number += 1
                path = self._output_dir / f"{words}-{number}.wav"
        else:
            path = Path(output).expanduser()
            AudioWriter(path, 24_000)  # its suffix is one that can be written
            if path.exists():
                raise ValueError(f"{output} exists already. Choose another path.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"Cannot write to {path.parent}: {error.strerror}.") from error
        return path.absolute()


def _reported(context: Context) -> Progress:
    """Reports the share that is done, and stops the clip when the client cancels the call."""
    due = 0.0

    def report(share: float) -> None:
        nonlocal due
        anyio.from_thread.check_cancelled()
        if share >= due:
            due = share + PROGRESS_STEP
            anyio.from_thread.run(context.report_progress, share, 1.0)

    return report


def _drawn(seed: int | None) -> int:
    return random_seed() if seed is None else seed


def _readable(audio: str) -> Path:
    path = Path(audio).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file {audio}.")
    audio_info(path)
    return path
