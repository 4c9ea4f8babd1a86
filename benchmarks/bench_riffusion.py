"""Time and peak memory of a clip of Riffusion, compared with diffusers on the same random weights.

    python benchmarks/bench_riffusion.py --steps 2      # minutes, 6 GB
    python benchmarks/bench_riffusion.py --preset tiny --steps 2 --duration 0.2      # seconds

Both read the same folder in diffusers' layout and make a clip with DPM-Solver++ and guidance 7.
diffusers makes the image alone; our time includes the phases, to the sound. Each run is a process
of its own; they take turns. Memory is the process's peak, loading included. diffusers runs in
float32, its default.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_diffusion as bench  # type: ignore[import-not-found]  # beside this file
import torch
import tyro

GUIDANCE = 7.0


@dataclass(frozen=True, kw_only=True)
class Config(bench.Config):  # type: ignore[misc]
    duration: float = 5.12
    steps: int = 20


def main(config: Config) -> None:
    if config.run is not None:
        load = load_diffusers if config.run == bench.PEER else load_ours
        print(json.dumps(bench.one_run(config, load)))
        return
    bench.compare(
        config,
        write=write_checkpoint,
        script=__file__,
        title="Clips of Riffusion",
        about=__doc__ or "",
    )


def load_ours(config: Config) -> Any:
    import lm_audio

    assert config.run is not None
    model = lm_audio.load(config.folder, dtype=config.run, device="cpu")
    sampling = lm_audio.Denoising(steps=config.steps, guidance_scale=GUIDANCE)
    return lambda: (
        model.generate(bench.PROMPT, duration=config.duration, seed=0, sampling=sampling).samples
    )


def load_diffusers(config: Config) -> Any:
    import diffusers
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

    library: Any = diffusers
    assert config.folder is not None
    kinds = {
        "vae": library.AutoencoderKL, "unet": library.UNet2DConditionModel,
        "text_encoder": CLIPTextModel, "tokenizer": PreTrainedTokenizerFast,
        "scheduler": library.DPMSolverMultistepScheduler,
    }  # fmt: skip
    parts = {name: kind.from_pretrained(config.folder / name) for name, kind in kinds.items()}
    warnings.simplefilter("ignore")
    pipeline = library.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    factor = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    height = parts["unet"].config.sample_size * factor
    return lambda: torch.from_numpy(
        pipeline(
            bench.PROMPT,
            num_inference_steps=config.steps,
            guidance_scale=GUIDANCE,
            height=height,
            width=round(100 * config.duration) // 8 * 8,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
    )


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Random weights in the shape of Stable Diffusion 1.5, or much smaller ones."""
    import diffusers
    import transformers

    library: Any = diffusers
    shapes: Any = transformers
    torch.manual_seed(0)
    widths, levels = ((8, 16), (8, 16)) if tiny else ((320, 640, 1280, 1280), (128, 256, 512, 512))
    groups, dim, count = 4 if tiny else 32, 16 if tiny else 768, len(widths)
    factor = 2 ** (count - 1)
    words = bench.tokenizer(starts=True)
    words.model_max_length, words.pad_token = 77, "</s>"
    clip = {"hidden_size": dim, "vocab_size": 49_408, "bos_token_id": 0, "eos_token_id": 2}
    clip |= (
        {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        if tiny
        else {"intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    )
    down = "CrossAttnDownBlock2D", "DownBlock2D"
    up = "UpBlock2D", "CrossAttnUpBlock2D"
    makers: dict[str, Any] = {
        "vae": lambda: library.AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=levels,
            down_block_types=("DownEncoderBlock2D",) * count, layers_per_block=2,
            up_block_types=("UpDecoderBlock2D",) * count, norm_num_groups=groups,
        ),
        "unet": lambda: library.UNet2DConditionModel(
            sample_size=512 // factor, block_out_channels=widths, cross_attention_dim=dim,
            down_block_types=(*[down[0]] * (count - 1), down[1]), norm_num_groups=groups,
            up_block_types=(up[0], *[up[1]] * (count - 1)), attention_head_dim=2 if tiny else 8,
        ),
        "text_encoder": lambda: shapes.CLIPTextModel(shapes.CLIPTextConfig(**clip)),
        "tokenizer": lambda: words,
        "scheduler": lambda: library.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
    }  # fmt: skip
    for name, make in makers.items():
        make().save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (folder / "README.md").write_text("Random weights in the shape of Riffusion's.\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
