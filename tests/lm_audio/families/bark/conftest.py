"""Small random checkpoints of Bark in both layouts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BarkCoarseConfig,
    BarkCoarseModel,
    BarkConfig,
    BarkFineConfig,
    BarkFineModel,
    BarkModel,
    BarkSemanticConfig,
    EncodecConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.bark.modeling_bark import BarkPreTrainedModel

GENERATION: dict[str, Any] = {
    "codebook_size": 16,
    "semantic_config": {
        "eos_token_id": 40, "semantic_vocab_size": 40, "text_encoding_offset": 48,
        "text_pad_token": 90, "semantic_infer_token": 94, "max_input_semantic_length": 8,
        "max_new_tokens": 24,
    },
    "coarse_acoustics_config": {
        "coarse_semantic_pad_token": 72, "coarse_infer_token": 74, "max_coarse_input_length": 8,
        "max_coarse_history": 21, "sliding_window_len": 6,
    },
    "fine_acoustics_config": {"max_fine_input_length": 16, "max_fine_history_length": 8},
}  # fmt: skip


@pytest.fixture(scope="session")
def make_bark() -> Callable[..., BarkModel]:
    """Builds a random Bark: `make_bark(bias=False, num_layers=1)`."""

    def make(**overrides: Any) -> BarkModel:
        torch.manual_seed(0)
        shape = {"num_layers": 2, "num_heads": 2, "hidden_size": 16, "block_size": 64} | overrides
        config = BarkConfig(
            semantic_config=_plain(
                BarkSemanticConfig(**shape, input_vocab_size=96, output_vocab_size=48)
            ),
            coarse_acoustics_config=_plain(
                BarkCoarseConfig(**shape, input_vocab_size=76, output_vocab_size=76)
            ),
            fine_acoustics_config=_plain(
                BarkFineConfig(**shape, input_vocab_size=18, output_vocab_size=18)
            ),
            codec_config=_plain(EncodecConfig(num_filters=4, hidden_size=8, codebook_size=16)),
        )
        with pytest.MonkeyPatch.context() as patch:  # transformers 4.57 fails without biases
            patch.setattr(BarkPreTrainedModel, "_init_weights", lambda *_: None)
            model = BarkModel(config)
        for name, weight in model.named_parameters():
            if "codec" not in name:
                is_scale = "norm" in name and name.endswith("weight")
                torch.nn.init.normal_(weight, float(is_scale), 0.3)
        for name, buffer in model.codec_model.named_buffers():
            if name.endswith("embed"):
                torch.nn.init.normal_(buffer)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def save_bark() -> Callable[..., Path]:
    """Writes a model as transformers does, with a tokenizer: `save_bark(model, folder)`."""

    def save(model: BarkModel, folder: Path, **options: Any) -> Path:
        model.save_pretrained(folder, **options)
        (folder / "generation_config.json").write_text(json.dumps(GENERATION))
        words = ["[PAD]", "[UNK]", "a", "dog", "says", "hello", "and", "barks"]
        vocabulary = {word: i for i, word in enumerate(words)}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
        ).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def save_original() -> Callable[..., list[Path]]:
    """Writes three models as the original does: `save_original(models, folder)`."""

    def save(models: "dict[str, BarkCoarseModel | BarkFineModel]", folder: Path) -> list[Path]:
        files = []
        for name, model in models.items():
            config = model.config
            arguments = {
                "n_layer": config.num_layers, "n_head": config.num_heads,
                "n_embd": config.hidden_size, "block_size": config.block_size,
                "bias": config.bias, "dropout": 0.0,
                "input_vocab_size": config.input_vocab_size,
                "output_vocab_size": config.output_vocab_size,
            }  # fmt: skip
            if isinstance(model, BarkFineModel):
                arguments |= {"n_codes_total": 8, "n_codes_given": 1}
            state = {f"_orig_mod.{original_name(k)}": x for k, x in model.state_dict().items()}
            package = {
                "model": state, "model_args": arguments, "best_val_loss": np.float64(2.5),
                "iter_num": 10,
            }  # fmt: skip
            torch.save(package, folder / name)
            files.append(folder / name)
        return files

    return save


@pytest.fixture(scope="session")
def published_bark() -> dict[str, Any]:
    """Three random models with the published vocabularies and windows, but narrow."""
    torch.manual_seed(0)
    shape = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "bias": True}
    return {
        "semantic": BarkCoarseModel(
            BarkCoarseConfig(**shape, input_vocab_size=129_600, output_vocab_size=10_048)
        ),
        "coarse": BarkCoarseModel(
            BarkCoarseConfig(**shape, input_vocab_size=12_096, output_vocab_size=12_096)
        ),
        "fine": BarkFineModel(
            BarkFineConfig(**shape, input_vocab_size=1056, output_vocab_size=1056)
        ),
    }


def original_name(name: str) -> str:
    for ours, theirs in (
        (r"^layers\.", "transformer.h."),
        (r"att_proj", "c_attn"),
        (r"attn\.out_proj", "attn.c_proj"),
        (r"mlp\.out_proj", "mlp.c_proj"),
        (r"in_proj", "c_fc"),
        (r"layernorm_(\d)", r"ln_\1"),
        (r"^layernorm_final", "transformer.ln_f"),
        (r"^input_embeds_layers", "transformer.wtes"),
        (r"^input_embeds_layer", "transformer.wte"),
        (r"^position_embeds_layer", "transformer.wpe"),
    ):
        name = re.sub(ours, theirs, name)
    return name


def _plain(config: Any) -> Any:
    """transformers 4.57 takes dicts, 5 both."""
    return config.to_dict()
