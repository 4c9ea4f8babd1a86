"""Small random checkpoints of AudioLDM and AudioLDM 2 in diffusers' layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.pipelines.audioldm2.modeling_audioldm2 import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
WORDS = ["a", "dog", "barks", "rain", "on", "tin", "low", "quality", "wind"]


def tokenizer(*, roberta: bool) -> PreTrainedTokenizerFast:
    """Words with RoBERTa's or T5's special tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>"] if roberta else ["<pad>", "</s>", "<unk>"]
    vocab = {word: i for i, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = ["<s>", "$A", "</s>"] if roberta else ["$A", "</s>"]
    made.post_processor = processors.TemplateProcessing(
        single=pieces, special_tokens=[(x, vocab[x]) for x in pieces if x != "$A"]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>" if roberta else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=20,
    )


def randomise(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        width = weight[0].numel() if weight.dim() > 1 else 4
        nn.init.normal_(weight, float(is_scale), 0.3 if is_scale else 0.8 * width**-0.5)


def small_vae(**overrides: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "scaling_factor": 0.7,
    } | overrides  # fmt: skip
    return AutoencoderKL(**settings)


def small_vocoder(**overrides: Any) -> SpeechT5HifiGan:
    settings: dict[str, Any] = {
        "model_in_dim": 8, "sampling_rate": 1600, "upsample_initial_channel": 8,
        "upsample_rates": [4, 2], "upsample_kernel_sizes": [9, 4], "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 3], [1, 3]], "normalize_before": False,
    } | overrides  # fmt: skip
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**settings))


def text_shape() -> dict[str, Any]:
    return {
        "vocab_size": 4 + len(WORDS), "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 30,
        "projection_dim": 12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def small_clap() -> ClapModel:
    audio = {
        "hidden_size": 8, "patch_embeds_hidden_size": 4, "depths": [1, 1], "window_size": 4,
        "num_attention_heads": [1, 2], "num_mel_bins": 8, "spec_size": 32, "patch_size": 4,
        "patch_stride": [4, 4], "projection_dim": 12, "num_hidden_layers": 2,
    }  # fmt: skip
    return ClapModel(
        ClapConfig(text_config=text_shape(), audio_config=audio, projection_dim=12, hidden_size=16)
    )


def small_parts(**overrides: Any) -> dict[str, Any]:
    """The parts of an AudioLDM 2; overrides are settings of the U-Net, `vae` and `vocoder`."""
    torch.manual_seed(overrides.pop("seed", 0))
    shapes = {name: overrides.pop(name, {}) for name in ("vae", "vocoder")}
    parts: dict[str, Any] = {}
    window, heads = overrides.pop("sample_size", 12), overrides.pop("heads", 2)
    unet: dict[str, Any] = {
        "sample_size": window, "in_channels": 4, "out_channels": 4, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": heads,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": (8, 16),
        "cross_attention_dim": [[None, 16, 20]] * 2, "layers_per_block": 1,
    } | overrides  # fmt: skip
    gpt2 = GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=11, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, max_new_tokens=8,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=3 + len(WORDS), d_model=20, d_kv=5, d_ff=24, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    defaults: dict[str, Callable[[], Any]] = {
        "vae": lambda: small_vae(**shapes["vae"]),
        "vocoder": lambda: small_vocoder(**shapes["vocoder"]),
        "text_encoder": small_clap,
        "text_encoder_2": lambda: T5EncoderModel(t5),
        "language_model": lambda: GPT2LMHeadModel(gpt2),
        "projection_model": lambda: AudioLDM2ProjectionModel(12, 20, 16),
        "unet": lambda: AudioLDM2UNet2DConditionModel(**unet),
    }
    for name, make in defaults.items():
        parts[name] = make()
        randomise(parts[name])
        parts[name].eval()
    parts["scheduler"] = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    parts["feature_extractor"] = ClapFeatureExtractor(
        feature_size=8, max_length_s=1, truncation="rand_trunc"
    )
    parts["tokenizer"] = tokenizer(roberta=True)
    parts["tokenizer_2"] = tokenizer(roberta=False)
    return parts


def first_parts(**overrides: Any) -> dict[str, Any]:
    """The parts of an AudioLDM."""
    parts = small_parts()
    names = ("vae", "vocoder", "scheduler", "tokenizer")
    made = {name: parts[name] for name in names}
    config = ClapTextConfig(**text_shape())
    made["text_encoder"] = ClapTextModelWithProjection(config)
    unet: dict[str, Any] = {
        "sample_size": 12, "in_channels": 4, "out_channels": 4, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": (8, 16),
        "cross_attention_dim": (8, 16), "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 12, "class_embeddings_concat": True,
    } | overrides  # fmt: skip
    made["unet"] = UNet2DConditionModel(**unet)
    for name in ("text_encoder", "unet"):
        randomise(made[name])
        made[name].eval()
    return made


def write(parts: dict[str, Any], folder: Path, *, name: str = "AudioLDM2Pipeline") -> Path:
    """Writes parts as a pipeline of diffusers does."""
    for part, value in parts.items():
        value.save_pretrained(folder / part)
    index = {"_class_name": name, "_diffusers_version": "0.36.0"}
    index |= {part: ["diffusers", type(value).__name__] for part, value in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n")
    return folder


@pytest.fixture(scope="session")
def make_parts() -> Make:
    """Random parts of an AudioLDM 2, as `small_parts`."""
    return small_parts


@pytest.fixture(scope="session")
def make_first_parts() -> Make:
    """Random parts of an AudioLDM, as `first_parts`."""
    return first_parts


@pytest.fixture(scope="session")
def write_parts() -> Write:
    """Writes parts: `write_parts(parts, folder, name="AudioLDMPipeline")`."""
    return write


@pytest.fixture(scope="session")
def parts() -> dict[str, Any]:
    return small_parts()


@pytest.fixture(scope="session")
def folder(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(parts, tmp_path_factory.mktemp("audioldm2"))
