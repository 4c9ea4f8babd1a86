"""The token language model against naive sums, and its steps against the whole."""

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.presets import tiny
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig

J, V, D = 3, 20, 32


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make(*, positions: str = "rotary", cross_attention: bool = False, **changes: object) -> TokenLM:
    config = tiny(num_streams=J, vocab_size=V, cross_attention=cross_attention)
    transformer = dataclasses.replace(
        config.transformer,
        positions=positions,  # type: ignore[arg-type]
        num_positions=64 if positions == "learned" else None,
    )
    config = dataclasses.replace(config, transformer=transformer, **changes)  # type: ignore[arg-type]
    return TokenLM(config).eval().requires_grad_(False)


def some_tokens(B: int, S: int) -> Tensor:
    return torch.randint(0, V + 1, (B, J, S))


def condition(B: int, L: int) -> Condition:
    return Condition(embeddings=torch.randn(B, L, D), mask=torch.ones(B, L, dtype=torch.bool))


@pytest.mark.parametrize("num_inputs", [V + 1, V + 5])
def test_embeddings_of_all_streams_are_summed(num_inputs: int) -> None:
    model, tokens = make(num_inputs=num_inputs), torch.randint(0, num_inputs, (2, J, 7))
    tables = model.embedding.weight.view(J, num_inputs, D)
    for b in range(2):
        for s in range(7):
            expected = sum(tables[j, tokens[b, j, s]] for j in range(J))
            torch.testing.assert_close(model.embed(tokens)[b, s], expected)


def test_each_stream_has_its_own_head() -> None:
    model, x = make(), torch.randn(2, 5, D)
    heads = model.heads.weight.view(J, V, D)
    expected = torch.einsum("bsd,jvd->bjsv", x, heads)
    torch.testing.assert_close(model.logits(x), expected)


def test_a_step_sees_itself_and_those_before_it() -> None:
    model, tokens = make(), some_tokens(1, 8)
    changed = tokens.clone()
    changed[:, 1, 5] = (changed[:, 1, 5] + 1) % V
    before, after = model(tokens), model(changed)
    assert before.shape == (1, J, 8, V)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert (before[:, :, 5:] - after[:, :, 5:]).abs().amax(dim=(0, 1, 3)).gt(1e-4).all()


def test_what_is_summed_is_added_to_the_embeddings() -> None:
    model, tokens, added = make(), some_tokens(2, 6), torch.randn(2, 6, D)
    expected = model.logits(model.transformer(model.embed(tokens) + added))
    assert torch.equal(model(tokens, fused=Fused(sum=added)), expected)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "relative", "learned"])
def test_what_is_prepended_goes_first_and_gets_no_logits(positions: str) -> None:
    model, tokens, prefix = make(positions=positions), some_tokens(1, 6), condition(1, 4)
    x = torch.cat([prefix.embeddings, model.embed(tokens)], dim=1)
    expected = model.logits(model.transformer(x)[:, 4:])
    found = model(tokens, fused=Fused(prepend=prefix))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "relative", "learned"])
def test_padding_of_prefixes_and_of_tokens_changes_nothing(positions: str) -> None:
    model, tokens = make(positions=positions), some_tokens(2, 6)
    prefix = condition(2, 5)
    prefix.mask[0, 2:] = False
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    both = model(tokens, fused=Fused(prepend=prefix), mask=mask)
    short = Condition(embeddings=prefix.embeddings[:1, :2], mask=prefix.mask[:1, :2])
    first = model(tokens[:1], fused=Fused(prepend=short))
    whole = Condition(embeddings=prefix.embeddings[1:], mask=prefix.mask[1:])
    second = model(tokens[1:, :, :4], fused=Fused(prepend=whole))
    torch.testing.assert_close(both[:1], first, rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1:, :, :4], second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("known", [0, 1, 5])
@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "relative", "learned"])
def test_a_prompt_and_steps_equal_the_whole(positions: str, known: int) -> None:
    model, tokens = make(positions=positions, cross_attention=True), some_tokens(1, 9)
    added = torch.randn(1, 1, D)
    fused = Fused(cross=condition(1, 3), prepend=condition(1, 4), sum=added)
    whole = model(tokens, fused=fused)
    cache = model.transformer.new_cache()
    model.prefill(tokens[..., :known], fused=fused, cache=cache)
    cache.reserve(1, 4 + 9, 3)
    for s in range(known, 9):
        found = model.step(
            tokens[..., s],
            sums=added[:, 0],
            rows=slice(0, 1),
            positions=torch.tensor([4 + s]),
            length=4 + s + 1,
            cache=cache,
        )
        torch.testing.assert_close(found, whole[:, :, s], rtol=0, atol=1e-5)


def test_every_weight_is_trained() -> None:
    model = TokenLM(tiny(num_streams=J, vocab_size=V))
    model(some_tokens(2, 6), fused=Fused(cross=condition(2, 3))).square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_later_blocks_begin_with_smaller_outputs() -> None:
    config = tiny()
    transformer = dataclasses.replace(config.transformer, dim=64, num_layers=8)
    blocks = TokenLM(dataclasses.replace(config, transformer=transformer)).transformer.blocks
    ratio = blocks[7].attention.output.weight.std() / blocks[0].attention.output.weight.std()
    assert ratio.item() == pytest.approx(8**-0.5, rel=0.1)


def test_a_config_survives_json() -> None:
    config = tiny()
    assert TokenLMConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert config.num_inputs == config.vocab_size + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_streams": 0}, "got 0, 64 and 65"),
        ({"vocab_size": 0}, "got 4, 0 and 65"),
        ({"num_inputs": 63}, "got 4, 64 and 63"),
    ],
)
def test_configs_that_cannot_be_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny(), **change)
