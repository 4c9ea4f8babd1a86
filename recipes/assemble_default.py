"""Puts a trained model into the package, in half precision: the one that `lm_audio.load()` loads.

    python recipes/assemble_default.py --preset tiny                      # seconds, random weights
    python recipes/assemble_default.py --model runs/default/acoustic/model

`--model` is a whole model, such as recipes/train_stage.py writes. Its language models are
rounded to float16. Codec and semantic tokenizer are not, since the others have learned from their
tokens: so they must have been rounded before, as recipes/train_default.sh does, or they take twice
the room. How it samples when nobody says how is written with it. `--out` is replaced as a whole or
not at all; what lies at its top, such as the model card, stays. It takes seconds and 0.5 GB.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.atomic import replacing_folder
from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.duet.stages import duet
from lm_audio.generation.lm_stage import Stage
from lm_audio.loading import load
from lm_audio.model import Model, ModelCard
from lm_audio.networks import presets
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import DEFAULT_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling

MOST_BYTES = 64 * 10**6
"""What the package may carry."""
PARTS = {"codec", "semantic_tokenizer", "text_encoder", "__pycache__"}
"""Folders beside those of the stages."""


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["default", "tiny"] = "default"
    model: Path | None = None
    """The whole model; the tiny preset makes one up."""
    out: Path | None = None
    """The package by default, runs/default_model for the tiny preset."""
    name: str = "lm-audio default"
    licence: str = "Apache-2.0"
    guidance_scale: float | None = None
    """How closely both stages follow the prompt; what is not given stays as the model has it."""
    semantic_temperature: float | None = None
    acoustic_temperature: float | None = None
    top_k: int | None = None


def main(config: Config) -> Path:
    """Writes the model and returns its folder."""
    model = read_model(config)
    stages = [
        dataclasses.replace(stage, sampling=sampling_of(stage.name, stage.sampling, config))
        for stage in model.stages.values()
        if isinstance(stage, Stage)  # others cannot be saved
    ]
    assembled = AudioPipeline(
        Model(
            stages,
            model.renderer,
            output_stages=model.model.output_stages,
            semantic_tokenizer=model.semantic_tokenizer,
            card=ModelCard(
                name=config.name,
                licence=config.licence,
                description="Sound from text or from sound.",
            ),
        )
    )
    tiny_out = Path("runs/default_model")
    out = config.out or (tiny_out if config.preset == "tiny" else DEFAULT_FOLDER)
    kept = kept_files(out, stages={stage.name for stage in stages})
    with replacing_folder(out) as new:
        assembled.save(new, half=True)
        sizes = json.loads((new / "config.json").read_text())["files"]
        check_size(sizes)
        for path in kept:
            shutil.copy2(path, new / path.name)
    for name, size in sizes.items():
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB in all, in {out}")
    option = "" if out == DEFAULT_FOLDER else f" --model {out}"
    print(f'Next: lm-audio generate "a dog barking"{option} --duration 5 -o dog.wav')
    return out


def read_model(config: Config) -> AudioPipeline:
    if config.model is not None:
        return load(config.model, device="cpu")
    if config.preset != "tiny":
        raise ValueError("Got no --model; give the folder of a whole model, or --preset tiny.")
    codec = FrameCodec(tiny()).eval()
    stages = duet(
        semantic=presets.tiny().transformer,
        acoustic=presets.tiny().transformer,
        text=lambda dim: LabelConditioner(["a dog barking", "rain"], dim),
        num_semantic_tokens=32,
        semantic_rate=Fraction(25),
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
    )
    return AudioPipeline(Model(stages, CodecRenderer(codec)))


def sampling_of(stage: str, sampling: Sampling, config: Config) -> Sampling:
    """How a stage samples, with what is given in the place of what it has."""
    temperatures = {
        "semantic": config.semantic_temperature,
        "acoustic": config.acoustic_temperature,
    }
    given: dict[str, Any] = {
        "guidance_scale": config.guidance_scale,
        "temperature": temperatures.get(stage),
        "top_k": config.top_k,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(sampling, **changes)


def kept_files(out: Path, *, stages: set[str]) -> list[Path]:
    """What stays of the folder that is replaced: the files at its top, but for an older config."""
    found = sorted(out.iterdir()) if out.is_dir() else []
    for path in found:
        if path.is_dir() and path.name not in PARTS | stages:
            raise ValueError(
                f"{path} is no part of a model, and {out} is replaced as a whole; give another "
                "--out, or remove it."
            )
    return [path for path in found if path.is_file() and path.name != "config.json"]


def check_size(sizes: dict[str, int]) -> None:
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if total > MOST_BYTES:
        raise ValueError(
            f"The model takes {total / 1e6:.0f} MB and the package carries "
            f"{MOST_BYTES / 1e6:.0f}; the largest file is {largest}: train a smaller model, and "
            "round codec and masked model to float16 before anything learns from their tokens."
        )


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
