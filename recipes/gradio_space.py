"""Runs a model as a Gradio app, for a Hugging Face Space.

    pip install 'gradio>=6,<7'
    python recipes/gradio_space.py --model musicgen-small

In a Space with the Gradio SDK, name this file app.py and list lm-audio in requirements.txt.
`lm-audio app` is the full web page: takes, a timeline and a library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_audio.cli.recipe import run_recipe
from lm_audio.loading import load
from lm_audio.pipeline import AudioPipeline

MAX_SECONDS = 30.0
DEFAULT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str | None = None
    """A folder, a name from `lm-audio models`, or a hub id; the bundled model by default."""
    dtype: str = "float32"
    """Precision of the language models."""
    port: int = 7860
    """Port to listen on."""


def main(config: Config) -> None:
    """Serves until interrupted."""
    try:
        import gradio  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ValueError("Gradio is not installed. Run: pip install 'gradio>=6,<7'") from error
    pipeline = load(config.model, dtype=config.dtype)
    app = gradio.Interface(
        generator(pipeline),
        inputs=[
            gradio.Textbox(label="Prompt"),
            gradio.Slider(0.5, MAX_SECONDS, DEFAULT_SECONDS, step=0.5, label="Duration (seconds)"),
            gradio.Textbox(label="Seed", placeholder="random"),
        ],
        outputs=gradio.Audio(label="Clip"),
        title=pipeline.card.name or "lm-audio",
        flagging_mode="never",
    )
    app.launch(server_port=config.port)


def generator(pipeline: AudioPipeline) -> Callable[[str, float, str], Any]:
    """The function behind the form: the sample rate, and samples [N, C] as 16-bit integers."""

    def generate(prompt: str, duration: float, seed: str) -> tuple[int, "np.ndarray[Any, Any]"]:
        clip = pipeline.generate(
            prompt.strip() or None, duration=duration, seed=int(seed) if seed.strip() else None
        )
        samples = (clip.samples.T * 2**15).round().clamp(-(2**15), 2**15 - 1)
        return clip.sample_rate, samples.numpy().astype(np.int16)

    return generate


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
