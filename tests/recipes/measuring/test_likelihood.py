"""Likelihoods of sequences against one pass of the model, and pairs of them."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.lm_stage import LMStage
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import delayed, parallel
from lm_audio.sampling import Sampling
from measuring.likelihood import LogLikelihood, log_likelihood, pair_wins


def new_stage(num_codebooks: int, *, window_frames: int = 100, repeats: bool = True) -> LMStage:
    torch.manual_seed(0)
    config = presets.tiny(num_streams=num_codebooks, vocab_size=12)
    config = replace(config, transformer=replace(config.transformer, cross_attention=False))
    model = TokenLM(config).eval()
    torch.nn.init.normal_(model.heads.weight, std=0.5)
    return LMStage(
        name="semantic",
        model=model,
        pattern=parallel(1) if num_codebooks == 1 else delayed(range(num_codebooks)),
        conditioners=Conditioners({}, {}),
        frame_rate=Fraction(25),
        window_frames=window_frames,
        overlap_frames=window_frames // 2,
        sampling=Sampling(),
        start_token=12,
        deduplicated=not repeats,
    )


def tokens_of(num_codebooks: int, num_frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(12, (num_codebooks, num_frames), generator=generator)


@torch.no_grad()
def naive(stage: LMStage, tokens: torch.Tensor) -> float:
    """The sum over one stream, token by token."""
    inputs = torch.cat([torch.tensor([[[12]]]), tokens[None, :, :-1]], dim=2)
    scores = stage.model(inputs)[0, 0].log_softmax(dim=-1)
    return float(scores.gather(1, tokens[0][:, None]).sum())


def test_a_sequence_is_as_likely_as_its_tokens_together() -> None:
    stage, tokens = new_stage(1), tokens_of(1, 40)
    got = log_likelihood(stage, tokens)
    assert got.num_tokens == 40
    assert got.total == pytest.approx(naive(stage, tokens), rel=1e-4)
    assert got.per_token == pytest.approx(got.total / 40)


def test_delayed_codebooks_all_count() -> None:
    stage, tokens = new_stage(3), tokens_of(3, 10)
    got = log_likelihood(stage, tokens)
    layout = stage.pattern.layout(10)
    laid = layout.build(tokens[None], empty=12)
    inputs = torch.cat([torch.full_like(laid[..., :1], 12), laid[..., :-1]], dim=-1)
    with torch.no_grad():
        scores = stage.model(inputs)[0].log_softmax(dim=-1)  # [3, S, V]
    expected = sum(
        float(scores[k, frame + k, tokens[k, frame]]) for k in range(3) for frame in range(10)
    )
    assert got.total == pytest.approx(expected, rel=1e-4)
    assert got.num_tokens == 30


def test_beyond_the_context_windows_follow_each_other() -> None:
    stage, tokens = new_stage(1, window_frames=16), tokens_of(1, 30)
    expected = naive(stage, tokens[:, :16])
    for start, stop in ((8, 24), (14, 30)):
        window = tokens[:, start:stop]
        judged = stop - (16 if start == 8 else 24)
        expected += naive(stage, window) - _first(stage, window, 16 - judged)
    assert log_likelihood(stage, tokens).total == pytest.approx(expected, rel=1e-4)


def _first(stage: LMStage, tokens: torch.Tensor, number: int) -> float:
    return naive(stage, tokens[:, :number])


def test_repeats_are_removed_for_a_stage_that_makes_none() -> None:
    stage, tokens = new_stage(1, repeats=False), torch.tensor([[1, 1, 5, 5, 5, 2]])
    got = log_likelihood(stage, tokens)
    assert got.num_tokens == 3
    assert got.total == pytest.approx(naive(stage, torch.tensor([[1, 5, 2]])), rel=1e-4)


def test_pairs_are_won_by_the_likelier_and_a_tie_is_half() -> None:
    short, long = (LogLikelihood(total=x, num_tokens=n) for x, n in ((-6.0, 2), (-8.0, 4)))
    assert pair_wins([short, long, long], [long, short, long]).tolist() == [0.0, 1.0, 0.5]
    assert pair_wins([short], [long], per_token=False).tolist() == [1.0]
    with pytest.raises(ValueError, match="Got 1 preferred and 0 other sequences; expected pairs"):
        pair_wins([short], [])


def test_an_empty_sequence_has_no_likelihood() -> None:
    with pytest.raises(ValueError, match="Got no tokens; expected at least one frame"):
        log_likelihood(new_stage(1), torch.zeros(1, 0, dtype=torch.int64))
