"""The time of our diffusion transformer and of the codec that renders its latents.

    python benchmarks/bench_dit.py --output benchmarks/results/dit.md     # minutes
    python benchmarks/bench_dit.py --preset tiny --seconds 1 --rounds 1   # smoke test, seconds
    python benchmarks/bench_dit.py --device cuda --dtypes bfloat16

A latent flow with random weights makes one stereo clip in few steps without guidance, as models
that are distilled to few steps do, in one window. The bundled codec renders both channels. The
anchor is the real-time factor of Stable Audio 3 small: 0.057 for 30 s on a laptop's CPU in 8
steps, as published with it, decoder included.
"""

import platform
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import nn

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.atomic import replacing
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.latent_flow.stages import latent_flow
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.networks import presets
from lm_audio.networks.dit import DiT
from lm_audio.networks.packing import num_parameters
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec_latents import CodecLatentRenderer
from lm_audio.sampling import Denoising
from lm_audio.system import release_omp_threads
from lm_audio.training.latents import sample_latents

SHAPES = {"tiny": (64, 2), "small": (512, 9), "medium": (768, 12)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "small", "medium"] = "small"
    """small: 40 million weights."""
    seconds: float = 30.0
    """Duration of the clip."""
    steps: int = 8
    patches: tuple[int, ...] = (1, 2)
    """Latent frames per position."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    channels: Literal[1, 2] = 2
    device: str = "cpu"
    rounds: int = 3
    threads: int = 2
    """CPU threads."""
    output: Path | None = None
    """Markdown file for the table, in addition to stdout."""


def main(config: Config) -> None:
    release_omp_threads()
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    codec = load_codec(CODEC_FOLDER, device=config.device)
    width = config.channels * codec.latent_size  # type: ignore[attr-defined]  # a frame codec
    renderer = CodecLatentRenderer(
        codec=codec,  # type: ignore[arg-type]
        num_channels=config.channels,
        mean=torch.zeros(width),
        deviation=torch.ones(width),
    )
    frames = int(config.seconds * renderer.signal.rate)
    values = torch.randn(width, frames, device=config.device)
    rendering = best(lambda: renderer.render(values), config)
    lines = [
        "| million weights | patch | precision | network, s | codec, s | real-time factor: network "
        "| all |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for patch in config.patches:
        for dtype in config.dtypes:
            stage = new_stage(config, renderer, patch=patch)
            assert isinstance(stage.network, DiT)
            size = num_parameters(stage.network)
            stage.network.to(config.device, DTYPES[dtype])
            stage.conditioners.to(config.device)
            taken = best(lambda one=stage: clip(one, frames), config)
            both = taken + rendering
            lines.append(
                f"| {size / 1e6:.1f} | {patch} | {dtype} | {taken:.2f} | {rendering:.2f} | "
                f"{taken / config.seconds:.3f} | {both / config.seconds:.3f} |"
            )
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text("\n".join([*preamble(config, renderer.signal.rate), "", *lines]) + "\n")


def new_stage(config: Config, renderer: CodecLatentRenderer, *, patch: int) -> DiffusionStage:
    dim, num_layers = SHAPES[config.preset]
    shape = replace(presets.compact(dim=dim, num_layers=num_layers), causal=False)

    def text(width: int) -> nn.Module:
        return LabelConditioner(["rain"], width)

    stage = latent_flow(
        shape, makes=renderer.signal, text=text, patch=patch, window_seconds=config.seconds
    )
    return replace(
        stage, sampling=Denoising(steps=config.steps, solver="euler", guidance_scale=1.0)
    )


def clip(stage: DiffusionStage, num_frames: int) -> None:
    sample_latents(stage, num_frames=num_frames, seed=0, conditions={"text": "rain"})


def best(run: object, config: Config) -> float:
    """The shortest time of several runs in seconds; the first one is not counted."""
    assert callable(run)
    times = []
    with torch.inference_mode():
        for _ in range(config.rounds + 1):
            began = time.perf_counter()
            run()
            if config.device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return min(times[1:])


def preamble(config: Config, rate: Fraction) -> list[str]:
    device = torch.cuda.get_device_name() if config.device != "cpu" else platform.processor()
    return [
        "# The diffusion transformer",
        "",
        f"- {config.seconds:g} s, {config.channels} channels, {float(rate):g} latent frames per "
        f"second, {config.steps} Euler steps without guidance; best of {config.rounds}",
        f"- device: {device or platform.machine()}, {config.threads} threads, torch "
        f"{torch.__version__}",
        "- command: `python benchmarks/bench_dit.py`",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
