"""The transformer against a naive one, and its steps against the whole."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.networks.kv_cache import BLOCK
from lm_audio.networks.transformer import Transformer, TransformerConfig

POSITIONS = ("sinusoidal", "rotary", "relative", "learned")


def make(**changes: object) -> Transformer:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "dim": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "cross_attention": True,
    }  # fmt: skip
    settings |= changes
    if settings.get("positions") == "learned":
        settings["num_positions"] = 200
    transformer = Transformer(TransformerConfig(**settings)).eval()  # type: ignore[arg-type]
    for parameter in transformer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return transformer.requires_grad_(False)


def condition(length: int = 5, dim: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(1, length, dim), torch.ones(1, length, dtype=torch.bool)


def naive_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention of one head, query by query; [S, D] each, seen [S, L]."""
    rows = []
    for i in range(len(q)):
        scores = torch.stack([(q[i] * k[j]).sum() / q.shape[1] ** 0.5 for j in range(len(k))])
        shares = torch.softmax(scores[seen[i]], dim=0)
        rows.append((shares[:, None] * v[seen[i]]).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("window", [None, 3])
def test_a_block_equals_a_naive_one(window: int | None) -> None:
    transformer = make(positions="learned", num_layers=1, window=window, norm="layer")
    x, (context, mask) = torch.randn(1, 7, 16), condition()
    block = transformer.blocks[0]
    found = transformer(x, condition=(context, mask))

    x = x[0] + transformer.positions.weight[:7]
    seen = torch.tensor(
        [[j <= i and (window is None or i - j < window) for j in range(7)] for i in range(7)]
    )
    q, k, v = block.attention.input(block.attention_norm(x)).chunk(3, dim=-1)
    heads = [naive_attention(q[:, h], k[:, h], v[:, h], seen) for h in (slice(0, 8), slice(8, 16))]
    x = x + block.attention.output(torch.cat(heads, dim=1))
    q = block.cross_attention.query(block.cross_attention_norm(x))
    k, v = block.cross_attention.key_value(context[0]).chunk(2, dim=-1)
    every = torch.ones(7, 5, dtype=torch.bool)
    heads = [naive_attention(q[:, h], k[:, h], v[:, h], every) for h in (slice(0, 8), slice(8, 16))]
    x = x + block.cross_attention.output(torch.cat(heads, dim=1))
    gate, value = block.feed_forward.input(block.feed_forward_norm(x)).chunk(2, dim=-1)
    x = x + block.feed_forward.output(F.silu(gate) * value)
    torch.testing.assert_close(found[0], transformer.norm(x), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("positions", "window", "norm"),
    list(itertools.product(POSITIONS, (None, 4), ("rms", "layer"))),
)
def test_steps_over_a_cache_equal_the_whole(positions: str, window: int | None, norm: str) -> None:
    transformer = make(dim=32, positions=positions, window=window, norm=norm, activation="gelu")
    x, (context, mask) = torch.randn(1, BLOCK + 9, 32), condition(dim=32)
    whole = transformer(x, condition=(context, mask))
    cache = transformer.new_cache()
    transformer.prefill(torch.randn(1, 4, 32), condition=condition(2, 32)[0], cache=cache)
    transformer.prefill(x[:, :6], condition=context, cache=cache)
    cache.reserve(2, x.shape[1], 0)
    with torch.inference_mode():
        for i in range(6, x.shape[1]):
            step = transformer.step(
                torch.cat([torch.randn(1, 32), x[:, i]]),
                rows=slice(0, 2),
                positions=torch.tensor([4, i]),
                length=i + 1,
                cache=cache,
            )
            torch.testing.assert_close(step[1], whole[0, i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_padding_changes_nothing(positions: str) -> None:
    transformer = make(positions=positions)
    x, seen = torch.randn(1, 9, 16), condition()
    padded = torch.cat([x[:, :4], torch.randn(1, 3, 16), x[:, 4:]], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 3 + [True] * 5])
    found = transformer(
        padded, condition=seen, mask=mask, positions=(mask.cumsum(1) - 1).clamp(min=0)
    )
    torch.testing.assert_close(found[mask], transformer(x, condition=seen)[0], atol=1e-5, rtol=1e-5)
    assert found.isfinite().all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_takes_the_same_step_bit_for_bit_in_any_company(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        transformer = make(dim=64, num_heads=4, positions="rotary")
        prompts = [torch.randn(1, length, 64) for length in (3, 90, 20, 150)]
        conditions = [torch.randn(1, length, 64) for length in (1, 80, 7, 3)]
        steps = torch.randn(4, 64)

        def run(rows: list[int]) -> Tensor:
            cache = transformer.new_cache()
            for row in rows:
                transformer.prefill(prompts[row], condition=conditions[row], cache=cache)
            lengths = [prompts[row].shape[1] for row in rows]
            cache.reserve(len(rows), max(lengths) + 1, 0)
            return transformer.step(
                steps[rows],
                rows=slice(0, len(rows)),
                positions=torch.tensor(lengths),
                length=max(lengths) + 1,
                cache=cache,
            )

        together = run([0, 1, 2, 3])
        for row in range(4):
            assert torch.equal(run([row])[0], together[row])
        assert torch.equal(run([2, 0]), together[[2, 0]])
    finally:
        torch.set_num_threads(before)


def test_rows_that_close_leave_the_others_as_they_were() -> None:
    transformer = make()
    cache = transformer.new_cache()
    for length in (3, 5, 4):
        transformer.prefill(torch.randn(1, length, 16), condition=condition(length)[0], cache=cache)
    x = torch.randn(3, 16)
    cache.reserve(3, 6, 0)
    expected = transformer.step(
        x, rows=slice(0, 3), positions=torch.tensor([3, 5, 4]), length=6, cache=cache
    )
    cache.close_rows(1, 2)
    found = transformer.step(
        x[[0, 2]], rows=slice(0, 2), positions=torch.tensor([3, 4]), length=6, cache=cache
    )
    assert torch.equal(found, expected[[0, 2]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dim": 18, "num_heads": 4}, "multiple of 2 x num_heads for rotary positions, got dim 18"),
        ({"dim": 18}, "got dim 18 and num_heads 2"),
        ({"dim": 17, "positions": "learned"}, "dim must be a multiple of num_heads, got dim 17"),
        ({"dim": 2, "positions": "sinusoidal"}, "dim must be at least 4 for sinusoidal"),
        ({"num_positions": 5}, "num_positions and learned positions require"),
        ({"window": 0}, "needs a causal transformer, got 0"),
        ({"window": 4, "causal": False}, "needs a causal transformer, got 4"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TransformerConfig(
            **{"dim": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8} | changes  # type: ignore[arg-type]
        )


def test_a_model_that_attends_to_a_condition_asks_for_one() -> None:
    with pytest.raises(ValueError, match="needs a condition for cross-attention"):
        make()(torch.randn(1, 3, 16))


def test_a_condition_without_cross_attention_is_refused() -> None:
    transformer = make(cross_attention=False)
    with pytest.raises(ValueError, match="A condition needs a transformer with cross_attention"):
        transformer(torch.randn(1, 3, 16), condition=condition())
    with pytest.raises(ValueError, match="A condition needs a transformer with cross_attention"):
        transformer.prefill(
            torch.randn(1, 3, 16), condition=condition()[0], cache=transformer.new_cache()
        )
