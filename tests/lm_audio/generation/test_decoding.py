"""The decode loop against a naive one, and each sequence against itself in other company."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.decoding import DecodingBatch
from lm_audio.generation.step import Row, Sequence
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.packing import pack
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed
from lm_audio.sampling import Sampling, uniforms

J, V, D = 3, 24, 32


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(backend: str) -> TokenLM:
    """Stepped by the kernels, or plain."""
    torch.manual_seed(0)
    transformer = TransformerConfig(
        dim=D, num_layers=2, num_heads=2, hidden_dim=64, cross_attention=True
    )
    model = TokenLM(TokenLMConfig(transformer=transformer, num_streams=J, vocab_size=V)).eval()
    for parameter in model.parameters():
        parameter.data *= 2
    if backend == "kernels":
        pack(model)
        assert model.transformer.kernel_steps is not None
    return model


def condition(seed: int, length: int) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(1, length, D, generator=generator)
    return Condition(embeddings=embeddings, mask=torch.ones(1, length, dtype=torch.bool))


ALIGNED = AlignedTokens(12, D, look_ahead=1, ratio=1).requires_grad_(False)
NULL = Condition(embeddings=torch.zeros(1, 1, D), mask=torch.ones(1, 1, dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a sequence is made of."""

    seed: int
    num_frames: int = 9
    prompt: int = 0
    scales: tuple[float, ...] = (-2.0, 3.0)
    prefix: int = 0
    follows: bool = False
    temperature: float = 1.0
    penalty: float = 1.0
    repeats: bool = True

    def sequence(self) -> Sequence:
        generator = torch.Generator().manual_seed(self.seed)
        tokens = torch.full((1, J, self.num_frames), -1)
        tokens[..., : self.prompt] = torch.randint(V, (1, J, self.prompt), generator=generator)
        laid_out = delayed([0, 1, 2]).layout(self.num_frames).build(tokens, empty=V)[0]
        S = laid_out.shape[1]
        seen = torch.randint(12, (S, 2), generator=generator)
        rows = []
        for i, scale in enumerate(self.scales):
            null = i == 0 and len(self.scales) > 1
            fused = Fused(
                cross=NULL if null else condition(self.seed + i, 3 + i),
                prepend=condition(self.seed + 9, self.prefix + i) if self.prefix else None,
                sum=torch.full((1, 1, D), 0.1 * i),
            )
            lookahead = seen.__getitem__ if self.follows and not null else None
            weights = torch.full((S,), scale)
            rows.append(Row(fused=fused, weights=weights, aligned=ALIGNED, lookahead=lookahead))
        return Sequence(
            start_token=V,
            tokens=laid_out,
            rows=tuple(rows),
            uniforms=uniforms(self.seed, "test", 0, S, J),
            temperature=torch.full((J, S), self.temperature),
            allowed=torch.tensor([0, V]).expand(J, S, 2),
            sampling=Sampling(top_k=10, repetition_penalty=self.penalty),
            penalty_window=4 if self.penalty != 1 else 0,
            deduplicated=not self.repeats,
        )


ASKS = (
    Ask(seed=1),
    Ask(seed=2, num_frames=70, prompt=3),
    Ask(seed=3, scales=(1.0,), temperature=0.0),
    Ask(seed=4, scales=(-1.0, 0.5, 1.5), prefix=4, penalty=1.5),
    Ask(seed=5, follows=True, prompt=8, repeats=False),
    Ask(seed=6, num_frames=30, prefix=70, follows=True, prompt=1),
)


def decode(model: TokenLM, asks: tuple[Ask, ...], **options: int) -> list[Tensor]:
    batch = DecodingBatch(model, **options)
    sequences = [ask.sequence() for ask in asks]
    batch.join(*sequences)
    while not all(sequence.done for sequence in sequences):
        batch.decode()
    return [batch.tokens(sequence) for sequence in sequences]


def naive_logits(model: TokenLM, sequence: Sequence, tokens: Tensor, step: int) -> Tensor:
    """The guided logits [J, V] of a step, from whole forward passes."""
    start = torch.full((1, J, 1), sequence.start_token)
    inputs = torch.cat([start, tokens[None, :, :step]], dim=-1)
    total = torch.zeros(J, V)
    for row in sequence.rows:
        logits = model(inputs, fused=replace(row.fused, sum=row.sums(0, step + 1)))[0, :, -1]
        total = total + row.weights[step] * logits
    return total


@pytest.mark.parametrize("i", range(len(ASKS)))
@torch.no_grad()
def test_every_greedy_token_is_the_likeliest_of_whole_forward_passes(
    model: TokenLM, i: int
) -> None:
    ask = replace(ASKS[i], temperature=0.0, penalty=1.0, repeats=True)
    sequence = ask.sequence()
    (tokens,) = decode(model, (ask,))
    for step in range(tokens.shape[1]):
        logits = naive_logits(model, sequence, tokens, step)
        known = sequence.tokens[:, step]
        chosen = torch.where(known < 0, logits.argmax(dim=-1), known)
        assert torch.equal(tokens[:, step], chosen), step


@torch.no_grad()
def test_sampled_tokens_have_the_shares_that_the_model_gives_them(model: TokenLM) -> None:
    ask = Ask(seed=0, num_frames=1)
    sequence = ask.sequence()
    logits = naive_logits(model, sequence, sequence.tokens, 0)[0]
    top = logits.topk(10).indices
    shares = torch.softmax(logits[top], dim=0)
    batch = DecodingBatch(model)
    generator = torch.Generator().manual_seed(0)
    n = 500
    sequences = [
        replace(sequence, uniforms=torch.rand(J, 3, generator=generator)) for _ in range(n)
    ]
    batch.join(*sequences)
    batch.decode()
    found = torch.stack([batch.tokens(one)[0, 0] for one in sequences])
    counts = torch.stack([(found == token).sum() for token in top]).float()
    assert counts.sum() == n
    chi_square = ((counts - n * shares) ** 2 / (n * shares)).sum()
    assert chi_square < 30  # 9 degrees of freedom: beyond it once in 2,000 draws


def test_a_sequence_gets_the_same_tokens_alone_and_in_any_company(model: TokenLM) -> None:
    alone = [decode(model, (ask,))[0] for ask in ASKS]
    for company in (ASKS, ASKS[::-1], ASKS[2:5], ASKS[:1] * 3):
        for ask, tokens in zip(company, decode(model, company), strict=True):
            assert torch.equal(tokens, alone[ASKS.index(ask)])


@pytest.mark.parametrize("rows_per_pass", [1, 2, 5])
def test_fewer_rows_per_pass_give_the_same_tokens(model: TokenLM, rows_per_pass: int) -> None:
    whole = decode(model, ASKS)
    for a, b in zip(whole, decode(model, ASKS, rows_per_pass=rows_per_pass), strict=True):
        assert torch.equal(a, b)


def test_sequences_join_wait_and_leave_at_any_step(model: TokenLM) -> None:
    alone = {ask.seed: decode(model, (ask,))[0] for ask in ASKS}
    order = torch.Generator().manual_seed(0)
    batch, working, coming = DecodingBatch(model), {}, list(ASKS)
    while coming or working:
        if coming and (not working or torch.rand((), generator=order) < 0.3):
            ask = coming.pop()
            working[ask.seed] = ask.sequence()
            batch.join(working[ask.seed])
        ready = [s for s in working.values() if torch.rand((), generator=order) < 0.7]
        batch.decode(ready)
        for seed, sequence in list(working.items()):
            gives_up = seed == 2 and sequence.step > 20
            if sequence.done:
                assert torch.equal(batch.tokens(sequence), alone[seed])
            if sequence.done or gives_up:
                batch.leave(sequence)
                del working[seed]


def test_what_is_known_in_the_middle_is_kept_and_seen(model: TokenLM) -> None:
    sequence = Ask(seed=1, temperature=0.0).sequence()
    known = sequence.tokens.clone()
    known[:, 5] = torch.tensor([7, 8, 9])
    batch = DecodingBatch(model)
    for one in (sequence, replace(sequence, tokens=known)):
        batch.join(one)
        while not one.done:
            batch.decode([one])
    (without, kept) = (batch.tokens(one) for one in batch_sequences(batch))
    assert torch.equal(kept[:, 5], torch.tensor([7, 8, 9]))
    assert torch.equal(kept[:, :5], without[:, :5])
    assert not torch.equal(kept[:, 6:], without[:, 6:])


def batch_sequences(batch: DecodingBatch[Sequence]) -> list[Sequence]:
    return batch.sequences


def test_scale_0_is_unconditional_and_scale_1_conditional(model: TokenLM) -> None:
    ask = Ask(seed=1)
    null, full = ask.sequence().rows

    def tokens(*rows: Row) -> Tensor:
        batch, sequence = DecodingBatch(model), replace(ask.sequence(), rows=rows)
        batch.join(sequence)
        while not sequence.done:
            batch.decode()
        return batch.tokens(sequence)

    zeros, ones = torch.zeros_like(null.weights), torch.ones_like(null.weights)
    conditional = tokens(replace(full, weights=ones))
    unconditional = tokens(replace(null, weights=ones))
    assert not torch.equal(conditional, unconditional)
    assert torch.equal(
        tokens(replace(null, weights=zeros), replace(full, weights=ones)), conditional
    )
    assert torch.equal(
        tokens(replace(null, weights=ones), replace(full, weights=zeros)), unconditional
    )


def test_without_repeats_no_token_follows_itself(model: TokenLM) -> None:
    (free,) = decode(model, (Ask(seed=3, num_frames=60, temperature=0.0),))
    (bound,) = decode(model, (Ask(seed=3, num_frames=60, temperature=0.0, repeats=False),))
    assert (free[:, 1:] == free[:, :-1]).any()
    inner = bound[:, 2:-2]  # without the empty cells at both ends
    assert not (inner[:, 1:] == inner[:, :-1]).any()


def test_a_strong_penalty_keeps_tokens_from_coming_back_within_its_window(model: TokenLM) -> None:
    (tokens,) = decode(
        model, (Ask(seed=3, num_frames=40, temperature=0.0, penalty=1e5, scales=(1.0,)),)
    )
    for stream, row in enumerate(tokens):
        row = row[stream : stream + 40]
        for i in range(40):
            assert row[i] not in row[max(0, i - 4) : i]
