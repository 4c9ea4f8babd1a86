"""Time and peak memory of a clip of Dance Diffusion, compared with diffusers on the same weights.

    python benchmarks/bench_waveforms.py                          # 10 minutes, 3 GB
    python benchmarks/bench_waveforms.py --preset tiny --steps 2 --duration 0.2      # seconds

Both read the same folder of random weights in diffusers' layout, in the published shape, and make a
stereo clip at 16 kHz with IPNDM. Each run is a process of its own; they take turns. Time is that of
the clip; memory is the process's peak, loading included. diffusers runs in float32, its default.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from bench_diffusion import (  # type: ignore[import-not-found]  # beside this file
    PEER,
    compare,
    one_run,
)
from bench_diffusion import Config as Shared

RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class Config(Shared):  # type: ignore[misc]  # as above
    duration: float = 4.096
    steps: int = 4


def main(config: Config) -> None:
    if config.run is not None:
        print(json.dumps(one_run(config, load_diffusers if config.run == PEER else load_ours)))
        return
    compare(
        config,
        write=write_checkpoint,
        script=__file__,
        title="Clips of Dance Diffusion",
        about=__doc__ or "",
    )


def load_ours(config: Config) -> Any:
    import lm_audio

    model = lm_audio.load(config.folder, dtype=str(config.run), device="cpu")
    sampling = lm_audio.Denoising(steps=config.steps, solver="ipndm", guidance_scale=1.0)
    return lambda: model.generate(duration=config.duration, seed=0, sampling=sampling).samples


def load_diffusers(config: Config) -> Any:
    import diffusers

    library: Any = diffusers
    pipeline = library.DanceDiffusionPipeline.from_pretrained(config.folder)
    pipeline.set_progress_bar_config(disable=True)

    def make() -> torch.Tensor:
        made = pipeline(
            num_inference_steps=config.steps,
            audio_length_in_s=config.duration,
            generator=torch.Generator().manual_seed(0),
        )
        return torch.from_numpy(made.audios)

    return make


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Random weights in the shape of harmonai/maestro-150k, or much smaller ones."""
    from lm_audio.families.dance_diffusion.layout import write_dance_diffusion
    from lm_audio.networks.unet1d import UNet1d, UNet1dConfig

    torch.manual_seed(0)
    widths = (32, 32, 64) if tiny else (128, 128, 256, 256, *[512] * 9)
    config = UNet1dConfig(
        in_channels=2, out_channels=2, widths=widths, num_attending=1 if tiny else 5
    )
    write_dance_diffusion(folder, UNet1d(config), sample_rate=RATE, window=65_536)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
