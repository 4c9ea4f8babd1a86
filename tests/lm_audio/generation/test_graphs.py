"""Steps that are captured and replayed give the tokens of steps that are not.

On a CPU a replay runs the captured function again on its fixed tensors; whatever a graph would miss
that is not in these tensors, it misses here, too.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.generation.decoding import DecodingBatch
from lm_audio.generation.graphs import GraphedSteps, bucket
from lm_audio.generation.step import Row, Sequence
from lm_audio.networks import presets
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.token_lm import TokenLM
from lm_audio.sampling import Sampling, uniforms

J, V, D = 2, 32, 32


class Captures:
    """Counts what is captured, and replays it."""

    def __init__(self) -> None:
        self.count = 0
        self.replays = 0

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Any]]:
        self.count += 1
        fixed = function().clone()

        def replay() -> None:
            self.replays += 1
            fixed.copy_(function())

        return fixed, replay


@pytest.fixture(scope="module")
def model() -> TokenLM:
    torch.manual_seed(0)
    return TokenLM(presets.tiny(num_streams=J, vocab_size=V)).eval().requires_grad_(False)


def sequence(seed: int, num_steps: int, known: int = 0, device: str = "cpu") -> Sequence:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((J, num_steps), -1)
    tokens[:, :known] = torch.randint(V, (J, known), generator=generator)
    rows = []
    for weight in (3.0, -2.0):
        text = torch.randn(1, 3 + seed, D, generator=generator).to(device)
        mask = torch.ones(1, 3 + seed, dtype=torch.bool, device=device)
        cross = Condition(embeddings=text, mask=mask)
        added = torch.full((1, 1, D), 0.1 * seed, device=device)
        fused = Fused(cross=cross, prepend=None, sum=added)
        rows.append(Row(fused=fused, weights=torch.full((num_steps,), weight, device=device)))
    return Sequence(
        start_token=V,
        tokens=tokens.to(device),
        rows=tuple(rows),
        uniforms=uniforms(seed, "test", 0, num_steps, J).to(device),
        temperature=torch.ones(J, num_steps, device=device),
        allowed=torch.tensor([0, V], device=device).expand(J, num_steps, 2),
        sampling=Sampling(top_k=10),
    )


def decode(batch: DecodingBatch, sequences: list[Sequence], *, later: int = 20) -> list[Tensor]:
    """The last one joins after some steps, the first one leaves when it is done."""
    sequences = [replace(one) for one in sequences]  # a batch works on them
    batch.join(*sequences[:-1])
    for _ in range(later):
        batch.decode()
    batch.join(sequences[-1])
    found: dict[int, Tensor] = {}
    working = dict(enumerate(sequences))
    while working:
        batch.decode()
        for i, one in list(working.items()):
            if one.done:
                found[i] = batch.tokens(one).clone()
                batch.leave(working.pop(i))
    return [found[i] for i in range(len(sequences))]


@pytest.mark.parametrize("rows_per_pass", [None, 2])
def test_replayed_steps_give_the_same_tokens(model: TokenLM, rows_per_pass: int | None) -> None:
    ours = [sequence(1, 40), sequence(2, 300, known=3), sequence(3, 60, known=30)]
    plain = decode(DecodingBatch(model, rows_per_pass=rows_per_pass), ours)
    batch, captures = DecodingBatch(model, rows_per_pass=rows_per_pass), Captures()
    batch._graphs = GraphedSteps(model, batch._cache, captures)
    for found, expected in zip(decode(batch, ours), plain, strict=True):
        assert torch.equal(found, expected)
    assert captures.count <= 6 * (1 if rows_per_pass is None else 3)
    assert captures.replays > 40 * captures.count


def test_buckets_are_doubles() -> None:
    assert [bucket(x) for x in (1, 256, 257, 1500)] == [256, 256, 512, 2048]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_give_the_tokens_of_steps_without_them(
    model: TokenLM, dtype: torch.dtype
) -> None:
    on_gpu = TokenLM(model.config).eval().requires_grad_(False)
    on_gpu.load_state_dict(model.state_dict())
    on_gpu.to("cuda", dtype)
    ours = [sequence(1, 40, device="cuda"), sequence(2, 300, known=3, device="cuda")]
    ours.append(sequence(3, 60, known=30, device="cuda"))
    graphed, plain = DecodingBatch(on_gpu), DecodingBatch(on_gpu)
    plain._graphs = None
    for found, expected in zip(decode(graphed, ours), decode(plain, ours), strict=True):
        assert torch.equal(found, expected)
