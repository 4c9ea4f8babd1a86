"""Small random checkpoints of Stable Audio in diffusers' layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderOobleck, StableAudioDiTModel, StableAudioProjectionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tests.lm_audio.families.stable_audio.random_weights import randomise

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
WORDS = ["a", "dog", "barks", "rain", "on", "tin", "low", "quality", "wind"]


def word_tokenizer(*, limit: int = 8) -> PreTrainedTokenizerFast:
    """Words with T5's special tokens."""
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=limit,
    )


def small_t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=3 + len(WORDS), d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4,
        dropout_rate=0.0,
    )  # fmt: skip
    return T5EncoderModel(config)


def small_parts(cosine: Any, **overrides: Any) -> dict[str, Any]:
    """The parts of a Stable Audio Open; overrides are settings of parts, by their name."""
    dit: dict[str, Any] = {
        "sample_size": 16, "in_channels": 6, "out_channels": 6, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 4, "num_key_value_attention_heads": 2,
        "cross_attention_dim": 16, "time_proj_dim": 16, "global_states_input_dim": 32,
        "cross_attention_input_dim": 16,
    } | overrides.get("transformer", {})  # fmt: skip
    vae: dict[str, Any] = {
        "encoder_hidden_size": 12, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2],
        "decoder_channels": 8, "decoder_input_channels": 6, "sampling_rate": 1600,
    } | overrides.get("vae", {})  # fmt: skip
    projection: dict[str, Any] = {
        "text_encoder_dim": 16, "conditioning_dim": 16, "min_value": 0, "max_value": 2,
    } | overrides.get("projection_model", {})  # fmt: skip
    parts: dict[str, Any] = {
        "transformer": StableAudioDiTModel(**dit),
        "vae": AutoencoderOobleck(**vae),
        "text_encoder": small_t5(),
        "projection_model": StableAudioProjectionModel(**projection),
    }
    for part in parts.values():
        randomise(part)
        part.eval()
    return {**parts, "scheduler": cosine(), "tokenizer": word_tokenizer()}


def write(parts: dict[str, Any], folder: Path, *, name: str = "StableAudioPipeline") -> Path:
    """Writes parts as a pipeline of diffusers does."""
    for part, value in parts.items():
        value.save_pretrained(folder / part)
    index = {"_class_name": name, "_diffusers_version": "0.36.0"}
    index |= {part: ["diffusers", type(value).__name__] for part, value in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: stable-audio-community\n---\n"
    )
    return folder


@pytest.fixture(scope="session")
def make_parts(cosine_scheduler: Any) -> Make:
    """Random parts of a Stable Audio Open, as `small_parts`."""

    def make(**overrides: Any) -> dict[str, Any]:
        return small_parts(cosine_scheduler, **overrides)

    return make


@pytest.fixture(scope="session")
def write_parts() -> Write:
    """Writes parts: `write_parts(parts, folder, name="StableAudioPipeline")`."""
    return write


@pytest.fixture(scope="session")
def parts(make_parts: Make) -> dict[str, Any]:
    return make_parts()


@pytest.fixture(scope="session")
def folder(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(parts, tmp_path_factory.mktemp("stable_audio"))
