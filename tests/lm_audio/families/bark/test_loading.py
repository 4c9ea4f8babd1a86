"""Loading Bark, as transformers and as its authors publish it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkModel,
    BarkSemanticConfig,
    EncodecConfig,
    PreTrainedTokenizerFast,
)

from lm_audio import Sampling
from lm_audio.loading import find_checkpoint, load
from lm_audio.pipeline import AudioPipeline

NAMES = (
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
)


@pytest.fixture(scope="module")
def bark() -> BarkModel:
    """One with the published vocabularies and windows, but narrow."""
    shape = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "block_size": 1024}
    configs = {
        "semantic_config": BarkSemanticConfig(
            **shape, input_vocab_size=129_600, output_vocab_size=10_048
        ),
        "coarse_acoustics_config": BarkCoarseConfig(
            **shape, input_vocab_size=12_096, output_vocab_size=12_096
        ),
        "fine_acoustics_config": BarkFineConfig(
            **shape, input_vocab_size=1056, output_vocab_size=1056
        ),
        "codec_config": EncodecConfig(num_filters=4, hidden_size=8),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = {name: config.to_dict() for name, config in configs.items()}
        model = BarkModel(BarkConfig(**plain)).eval()
        for name, weight in model.named_parameters():
            if "codec" not in name and weight.ndim > 1:
                torch.nn.init.normal_(weight, 0.0, 0.5)
        for layer in model.codec_model.quantizer.layers:
            layer.codebook.embed.normal_()
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "a", "dog", "barks"]
    vocabulary = {word: i for i, word in enumerate(words)}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def transformers_folder(
    bark: BarkModel, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("bark")
    bark.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def original_folder(bark: BarkModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files, with the codec in a subfolder."""
    folder = tmp_path_factory.mktemp("original-bark")
    parts = {"text": bark.semantic, "coarse": bark.coarse_acoustics, "fine": bark.fine_acoustics}
    for name, model in parts.items():
        torch.save(original(model), folder / f"{name}.pt")
    bark.codec_model.save_pretrained(folder / "codec")
    return folder


def original(model: Any) -> dict[str, Any]:
    config, state = model.config, {}
    for name, x in model.state_dict().items():
        for ours, theirs in NAMES:
            name = re.sub(ours, theirs, name)
        state[f"_orig_mod.{name}"] = x
    arguments = {
        "n_layer": config.num_layers, "n_head": config.num_heads, "n_embd": config.hidden_size,
        "block_size": config.block_size, "bias": config.bias,
        "input_vocab_size": config.input_vocab_size, "output_vocab_size": config.output_vocab_size,
    }  # fmt: skip
    return {"model": state, "model_args": arguments, "best_val_loss": np.float64(2.5)}


def spoken(model: AudioPipeline, **request: Any) -> torch.Tensor:
    sampling = Sampling(top_k=50, guidance_scale=1.0)
    return model.generate("a dog barks", duration=0.15, seed=3, sampling=sampling, **request).tokens


@pytest.fixture(scope="module")
def model(transformers_folder: Path) -> AudioPipeline:
    return load(transformers_folder)


@pytest.fixture(scope="module")
def plain(model: AudioPipeline) -> torch.Tensor:
    """What it says without a voice."""
    return spoken(model)


def test_both_layouts_speak_the_same_tokens(
    plain: torch.Tensor, transformers_folder: Path, original_folder: Path, tokenizer: Path
) -> None:
    assert find_checkpoint(transformers_folder).format == "bark"
    assert find_checkpoint(original_folder).format == "bark-original"
    assert plain.shape[0] == 8
    assert plain.unique().numel() > 20
    assert torch.equal(spoken(load(original_folder, text_encoder=tokenizer)), plain)


def test_a_voice_in_a_file_changes_what_is_said(
    model: AudioPipeline, plain: torch.Tensor, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    voice = {
        "semantic_prompt": rng.integers(0, 10_000, 100),
        "coarse_prompt": rng.integers(0, 1024, (2, 150)),
        "fine_prompt": rng.integers(0, 1024, (8, 150)),
    }
    np.savez(tmp_path / "me.npz", **voice)
    assert not torch.equal(spoken(model, conditions={"voice": str(tmp_path / "me.npz")}), plain)


def test_bark_has_no_text_encoder_to_give_where_it_brings_its_own(
    transformers_folder: Path, tokenizer: Path
) -> None:
    with pytest.raises(ValueError, match="text_encoder has no effect"):
        load(transformers_folder, text_encoder=tokenizer)


def test_all_models_of_bark_have_the_dtype_asked_for(transformers_folder: Path) -> None:
    for stage in load(transformers_folder, dtype="bfloat16").stages.values():
        kinds = torch.nn.Linear | torch.nn.Embedding  # norms are float32 where kernels compute so
        weights = [x.weight for x in stage.model.modules() if isinstance(x, kinds)]
        assert {weight.dtype for weight in weights} == {torch.bfloat16}
