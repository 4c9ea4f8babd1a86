"""Installs a trained model, in half precision, as the default model of the package.

    python recipes/default_model/assemble.py --preset tiny       # random weights, seconds
    python recipes/default_model/assemble.py --model runs/default/acoustic/model

`--model` is a complete model, as recipes/train_stage.py writes it. Its language models are
rounded to float16. The codec and the semantic tokenizer are not, because the language models were
trained on their tokens: round them before training, as train.sh does, or they take twice the space.
The default sampling settings are stored with the model, and so are the kinds of sound that it was
trained on, with examples and the threshold that check_prompts.py measures. `--out` is replaced as a
whole or not at all, but files at its top level, such as the model card, are kept. It takes seconds
and 0.5 GB.
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
from lm_audio.conditioners.known_prompts import KnownPrompts
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.families.duet.stages import duet
from lm_audio.generation.lm_stage import LMStage
from lm_audio.loading import load
from lm_audio.model import Model, ModelCard
from lm_audio.networks import presets
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import DEFAULT_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling

MOST_BYTES = 64 * 10**6
"""The size limit of the weights in the package."""
EXAMPLES = Path(__file__).parent / "prompts" / "examples.json"
PARTS = {"codec", "semantic_tokenizer", "text_encoder", "__pycache__"}
"""Folders of a model besides those of its stages."""


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["default", "tiny"] = "default"
    model: Path | None = None
    """Folder of a complete model; the tiny preset uses random weights instead."""
    out: Path | None = None
    """Output folder; defaults to the package, or runs/default_model with the tiny preset."""
    name: str = "lm-audio default"
    licence: str = "Apache-2.0"
    guidance_scale: float | None = None
    """Guidance scale of both stages; defaults to the model's."""
    semantic_temperature: float | None = None
    """Sampling temperature of the semantic stage; defaults to the model's."""
    acoustic_temperature: float | None = None
    """Sampling temperature of the acoustic stage; defaults to the model's."""
    top_k: int | None = None
    """Number of most likely tokens to sample from, in both stages; defaults to the model's."""


def main(config: Config) -> Path:
    """Writes the model and returns its folder."""
    model = read_model(config)
    stages = [
        dataclasses.replace(stage, sampling=sampling_of(stage.name, stage.sampling, config))
        for stage in model.stages.values()
        if isinstance(stage, LMStage)  # others cannot be saved
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
                known=known_prompts(model),
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
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB in total, in {out}")
    option = "" if out == DEFAULT_FOLDER else f" --model {out}"
    print(f'Next: lm-audio generate "a dog barking"{option} --duration 5 -o dog.wav')
    return out


def read_model(config: Config) -> AudioPipeline:
    if config.model is not None:
        return load(config.model, device="cpu")
    if config.preset != "tiny":
        raise ValueError(
            "No model; pass the folder of a complete model as --model, or use --preset tiny."
        )
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


def known_prompts(model: AudioPipeline) -> KnownPrompts | None:
    """The kinds of sound it was trained on, if its encoder can compare prompts with them."""
    if not isinstance(model.model.text_encoder, SentenceEncoder):
        return None
    return KnownPrompts(**json.loads(EXAMPLES.read_text(encoding="utf-8")))


def sampling_of(stage: str, sampling: Sampling, config: Config) -> Sampling:
    """A stage's sampling settings, overridden by the config."""
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
    """The files of the replaced folder to keep: those at its top level, except the config."""
    found = sorted(out.iterdir()) if out.is_dir() else []
    for path in found:
        if path.is_dir() and path.name not in PARTS | stages:
            raise ValueError(
                f"{path} is not part of a model and would be deleted with {out}; choose another "
                "--out or move it."
            )
    return [path for path in found if path.is_file() and path.name != "config.json"]


def check_size(sizes: dict[str, int]) -> None:
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if total > MOST_BYTES:
        raise ValueError(
            f"The model takes {total / 1e6:.0f} MB, the limit is {MOST_BYTES / 1e6:.0f} MB and the "
            f"largest file is {largest}; train a smaller model, and round codec and masked model "
            "to float16 before training on their tokens."
        )


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
