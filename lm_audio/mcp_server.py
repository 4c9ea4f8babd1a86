"""A Model Context Protocol server: tools that generate, continue and inpaint audio files.

It speaks over stdin and stdout, where nothing else may be written; the SDK redirects prints to
stderr. The model is loaded in the background, since clients wait only seconds for a server to
start. One clip is made at a time.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
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
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mcp")
        self._model = self._worker.submit(load)

    def generate(
        self,
        prompt: Annotated[str, Field(description="Description of the sound.")],
        duration: Seconds = DEFAULT_SECONDS,
        seed: Seed = None,
        output: Output = None,
        negative: Annotated[str | None, Field(description="What to avoid.")] = None,
    ) -> Result:
        """Generate a sound from a text, as a file."""
        settings: dict[str, Any] = {"prompt": prompt, "duration": duration, "seed": _drawn(seed)}
        settings["negative"] = negative
        return self._make(prompt, output, lambda model: model.generate(**settings), settings)

    def continue_audio(
        self,
        audio: Audio,
        duration: Seconds = DEFAULT_SECONDS,
        prompt: Prompt = None,
        seed: Seed = None,
        output: Output = None,
    ) -> Result:
        """Continue an audio file: its own samples, then new sound, as a new file."""
        settings: dict[str, Any] = {"duration": duration, "text": prompt, "seed": _drawn(seed)}

        def work(model: AudioPipeline) -> Clip:
            return model.continue_from(_readable(audio), **settings)

        given = {"audio": audio, **settings}
        return self._make(f"{Path(audio).stem} continued", output, work, given)

    def inpaint(
        self,
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

        def work(model: AudioPipeline) -> Clip:
            return model.inpaint(_readable(audio), **settings)

        given = {"audio": audio, **settings}
        return self._make(f"{Path(audio).stem} inpainted", output, work, given)

    def _make(
        self,
        name: str,
        output: str | None,
        work: Callable[[AudioPipeline], Clip],
        settings: dict[str, Any],
    ) -> Result:
        """Makes and writes a clip; a user's mistake becomes one sentence."""
        try:
            path = self._path(output, name=f"{name} {settings['seed']}")
            clip = self._worker.submit(lambda: work(self._model.result())).result()
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


def _drawn(seed: int | None) -> int:
    return random_seed() if seed is None else seed


def _readable(audio: str) -> Path:
    path = Path(audio).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file {audio}.")
    audio_info(path)
    return path
