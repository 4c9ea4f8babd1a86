"""Time and peak memory of a clip of Stable Audio Open, compared with diffusers on random weights.

    python benchmarks/bench_stable_audio.py                     # 6 GB of a disk
    python benchmarks/bench_stable_audio.py --preset tiny --steps 2 --duration 0.2

All read the same folder in diffusers' layout and make a clip with DPM-Solver++ of order 2 without
new noise and guidance 7. diffusers denoises 47.55 s and cuts; "diffusers-short" denoises as many
latents as the clip has, which its pipeline does not offer. Each run is a process of its own; they
take turns. Time is that of the clip, from the text to the samples; memory is the process's peak,
loading included. diffusers runs in float32, its default.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from bench_diffusion import (  # type: ignore[import-not-found]  # beside this file
    PEER,
    PROMPT,
    compare,
    one_run,
)
from bench_diffusion import Config as Shared

Engine = Literal["diffusers", "diffusers-short", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Config(Shared):  # type: ignore[misc]  # as above
    engines: tuple[Engine, ...] = ("diffusers", "diffusers-short", "float32")
    """diffusers, and precisions of lm-audio; bfloat16 pays only on CPUs that multiply it."""
    duration: float = 5.0
    steps: int = 4
    run: Engine | None = None
    """Make one clip from `folder` and print its figures as JSON; used by the benchmark itself."""


def main(config: Config) -> None:
    if config.run is not None:
        load = load_diffusers if config.run.startswith(PEER) else load_ours
        print(json.dumps(one_run(config, load)))
        return
    compare(
        config,
        write=write_checkpoint,
        script=__file__,
        title="Clips of Stable Audio Open",
        about=__doc__ or "",
    )


def load_ours(config: Config) -> Any:
    import lm_audio

    assert config.run is not None
    model = lm_audio.load(config.folder, dtype=config.run, device="cpu")
    sampling = lm_audio.Denoising(steps=config.steps, guidance_scale=7.0)
    return lambda: (
        model.generate(PROMPT, duration=config.duration, seed=0, sampling=sampling).samples
    )


def load_diffusers(config: Config) -> Any:
    import diffusers

    library: Any = diffusers
    assert config.folder is not None
    parts = {
        name: kind.from_pretrained(config.folder / name)
        for name, kind in part_classes().items()
        if name != "scheduler"
    }
    # The published scheduler needs torchsde. This one costs the same.
    parts["scheduler"] = library.EDMDPMSolverMultistepScheduler(
        sigma_min=0.3, sigma_max=500, sigma_data=1.0, sigma_schedule="exponential",
        prediction_type="v_prediction",
    )  # fmt: skip
    warnings.simplefilter("ignore")
    pipeline = library.StableAudioPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    if config.run == "diffusers-short":
        vae = pipeline.vae
        frames = -(-round(config.duration * vae.sampling_rate) // vae.hop_length)
        pipeline.transformer.register_to_config(sample_size=frames)
    return lambda: (
        pipeline(
            PROMPT,
            num_inference_steps=config.steps,
            guidance_scale=7.0,
            audio_end_in_s=config.duration,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).audios
    )


def part_classes() -> dict[str, Any]:
    from diffusers import AutoencoderOobleck, StableAudioDiTModel, StableAudioProjectionModel
    from transformers import PreTrainedTokenizerFast, T5EncoderModel

    return {
        "vae": AutoencoderOobleck,
        "text_encoder": T5EncoderModel,
        "projection_model": StableAudioProjectionModel,
        "tokenizer": PreTrainedTokenizerFast,
        "transformer": StableAudioDiTModel,
        "scheduler": None,
    }


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Random weights in the shape of stabilityai/stable-audio-open-1.0, or much smaller ones."""
    from transformers import T5Config

    classes = part_classes()
    torch.manual_seed(0)
    transformer: dict[str, Any] = {}
    vae: dict[str, Any] = {}
    t5: dict[str, Any] = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    dim = 768
    if tiny:
        dim = 16
        transformer = {
            "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4,
            "num_key_value_attention_heads": 2, "cross_attention_dim": 16, "sample_size": 32,
            "cross_attention_input_dim": 16, "global_states_input_dim": 32,
        }  # fmt: skip
        vae = {"encoder_hidden_size": 128, "decoder_channels": 4, "channel_multiples": [1] * 5}
        t5 = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    makers: dict[str, Any] = {
        "vae": lambda: classes["vae"](**vae),
        "text_encoder": lambda: classes["text_encoder"](T5Config(vocab_size=32_128, **t5)),
        "projection_model": lambda: classes["projection_model"](dim, dim, 0, 512),
        "transformer": lambda: classes["transformer"](**transformer),
        "tokenizer": tokenizer,
    }
    for name, make in makers.items():
        part = make()
        part.save_pretrained(folder / name)
        del part
    scheduler = {
        "_class_name": "CosineDPMSolverMultistepScheduler", "sigma_min": 0.3, "sigma_max": 500,
    }  # fmt: skip
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableAudioPipeline"}))


def tokenizer() -> Any:
    """The words of the prompt with T5's special tokens: it has a realistic length in tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    library: Any = transformers
    words = ["<pad>", "</s>", "<unk>", *sorted(set(PROMPT.split()))]
    vocab = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", vocab["</s>"])]
    )
    return library.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=128,
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
