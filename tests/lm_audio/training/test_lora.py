"""Adapters: only they are trained, and taken in by the weights they give the same."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from lm_audio.networks import presets
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.token_lm import TokenLM
from lm_audio.training.lora import add_adapters, merged, save_adapters

RANK = 3
LAYERS = {  # of a block of the tiny preset: what goes in and what comes out
    "attention.input": (32, 96),
    "attention.output": (32, 32),
    "cross_attention.query": (32, 32),
    "cross_attention.key_value": (32, 64),
    "cross_attention.output": (32, 32),
    "feed_forward.input": (32, 128),
    "feed_forward.output": (64, 32),
}


@pytest.fixture
def plain() -> TokenLM:
    torch.manual_seed(0)
    return TokenLM(presets.tiny()).eval()


@pytest.fixture
def adapted(plain: TokenLM) -> TokenLM:
    """With adapters that add something."""
    model = copy.deepcopy(plain)
    add_adapters(model, rank=RANK, alpha=2 * RANK)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def logits(model: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(65, (2, 4, 11), generator=generator)
    texts = Condition(
        embeddings=torch.randn(2, 5, 32, generator=generator), mask=torch.ones(2, 5).bool()
    )
    return model(tokens, fused=Fused(cross=texts))


def test_adapters_stand_beside_every_attention_and_feed_forward_layer_and_add_nothing_at_first(
    plain: TokenLM,
) -> None:
    model = copy.deepcopy(plain)
    add_adapters(model, rank=RANK, alpha=RANK)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    expected = {
        f"transformer.blocks.{block}.{layer}.lora_{factor}.default.weight"
        for block in range(2)
        for layer in LAYERS
        for factor in "AB"
    }
    assert trained.keys() == expected
    sizes = [(wide_in + wide_out) * RANK for wide_in, wide_out in LAYERS.values()]
    assert sum(weight.numel() for weight in trained.values()) == 2 * sum(sizes)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)


def test_training_changes_the_adapters_and_leaves_the_model_as_it_was(plain: TokenLM) -> None:
    model = copy.deepcopy(plain)
    add_adapters(model, rank=RANK, alpha=RANK)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    before = logits(model).detach()
    for _ in range(3):
        logits(model).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (logits(model) - before).abs().max() > 0.1
    now = {
        name.replace(".base_layer", ""): weight
        for name, weight in model.named_parameters()
        if not weight.requires_grad
    }
    for name, weight in plain.named_parameters():
        assert torch.equal(now[name], weight)


def test_weights_that_took_the_adapters_in_give_what_the_adapters_give(
    plain: TokenLM, adapted: TokenLM
) -> None:
    expected = logits(adapted)
    state = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    assert (expected - logits(plain)).abs().max() > 0.1
    with merged(adapted) as whole:
        assert whole.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(logits(whole), expected, rtol=0, atol=1e-5)
        plain.load_state_dict(whole.state_dict())
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-5)
    assert torch.equal(logits(adapted), expected)
    assert all(torch.equal(state[name], weight) for name, weight in adapted.state_dict().items())


def test_peft_reads_the_adapters_that_are_saved(
    plain: TokenLM, adapted: TokenLM, tmp_path: Path
) -> None:
    save_adapters(adapted, tmp_path / "adapters")
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())["r"] == RANK
    assert len(load_file(tmp_path / "adapters" / "adapter_model.safetensors")) == 2 * 2 * 7
    read = PeftModel.from_pretrained(plain, tmp_path / "adapters")
    torch.testing.assert_close(logits(read), logits(adapted), rtol=0, atol=1e-6)


def test_a_rank_of_nothing_is_a_mistake(plain: TokenLM) -> None:
    with pytest.raises(ValueError, match="The adapter rank must be at least 1, got 0"):
        add_adapters(plain, rank=0, alpha=1)


def test_without_peft_its_extra_is_named(plain: TokenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'lm-audio\[train\]'"):
        add_adapters(plain, rank=1, alpha=1)
