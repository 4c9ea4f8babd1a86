"""Small random checkpoints of Riffusion in diffusers' layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
WORDS = ["funky", "synth", "solo", "rain", "on", "tin", "low", "quality", "jazz"]
LENGTH = 12
# 16 bands and a hop of 16 samples: a latent frame is 32 samples long.
IMAGE = {"sample_rate": 1600, "num_mels": 16, "high": 700}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words with CLIP's special tokens: the end is the padding, too."""
    vocab = {word: i for i, word in enumerate([*WORDS, "<unk>", "<start>", "<end>"])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=["<start>", "$A", "<end>"],
        special_tokens=[(x, vocab[x]) for x in ("<start>", "<end>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )


def randomise(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        width = weight[0].numel() if weight.dim() > 1 else 4
        nn.init.normal_(weight, float(is_scale), 0.3 if is_scale else 0.8 * width**-0.5)


def small_parts(**overrides: Any) -> dict[str, Any]:
    """The parts of a Riffusion; overrides are settings of the U-Net, and those of `vae`."""
    torch.manual_seed(overrides.pop("seed", 0))
    vae: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "scaling_factor": 0.7,
    } | overrides.pop("vae", {})  # fmt: skip
    unet: dict[str, Any] = {
        "sample_size": (8, 12), "in_channels": 4, "out_channels": 4, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": (8, 16),
        "cross_attention_dim": 20, "layers_per_block": 1,
    } | overrides  # fmt: skip
    vocab = len(WORDS) + 3
    clip = CLIPTextConfig(
        vocab_size=vocab, hidden_size=20, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=LENGTH, projection_dim=8,
        bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=vocab - 1,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(**vae),
        "text_encoder": CLIPTextModel(clip),
        "unet": UNet2DConditionModel(**unet),
    }
    for part in parts.values():
        randomise(part)
        part.eval()
    parts["tokenizer"] = tokenizer()
    parts["scheduler"] = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return parts


def write(parts: dict[str, Any], folder: Path, *, image: dict[str, Any] = IMAGE) -> Path:
    """Writes parts as a pipeline of diffusers does, and how the images are made."""
    for part, value in parts.items():
        value.save_pretrained(folder / part)
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.36.0"}
    index |= {part: ["diffusers", type(value).__name__] for part, value in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "spectrogram_image.json").write_text(json.dumps(image))
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    return folder


@pytest.fixture(scope="session")
def make_parts() -> Make:
    """Random parts of a Riffusion, as `small_parts`."""
    return small_parts


@pytest.fixture(scope="session")
def write_parts() -> Write:
    return write


@pytest.fixture(scope="session")
def parts() -> dict[str, Any]:
    return small_parts()


@pytest.fixture(scope="session")
def folder(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(parts, tmp_path_factory.mktemp("riffusion"))
