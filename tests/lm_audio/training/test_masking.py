"""Masks of training examples: what is hidden, what is judged, and what is known."""

import numpy as np
import pytest
import torch

from lm_audio.training.masking import mask

TOKENS = torch.arange(4 * 60).view(4, 60)


@pytest.mark.parametrize("codebook", range(4))
@pytest.mark.parametrize("span", [1, 3])
def test_codebooks_before_are_seen_and_those_after_are_not(codebook: int, span: int) -> None:
    random = np.random.default_rng(0)
    shares, known = [], []
    for _ in range(200):
        made = mask(TOKENS, codebook=codebook, span=span, schedule="cosine", random=random)
        unknown = made.hidden[-1] if codebook < 3 else None
        assert not made.hidden[:codebook].any()
        assert torch.equal(made.judged[codebook], made.hidden[codebook])
        assert made.judged.sum() == made.judged[codebook].sum() > 0
        if unknown is not None:
            assert made.hidden[codebook + 1 :].eq(unknown).all()
            assert (unknown | ~made.judged[codebook]).all()
            edges = torch.nn.functional.pad(unknown.int(), (1, 1)).diff().abs().sum()
            assert edges == 2  # one stretch of frames
            known.append(float((~unknown).float().mean()))
            spans = made.judged[codebook].view(-1, span)
            whole = unknown.view(-1, span)
            assert torch.equal(spans, spans.any(dim=1, keepdim=True) & whole)
            shares.append(float(made.judged[codebook].sum() / unknown.sum()))
    if codebook < 3:
        assert 0.55 < np.mean(shares) < 0.72  # the mean of the cosine is 2 / pi
        assert 0.3 < np.mean([k == 0 for k in known]) < 0.5
        assert max(known) > 0.7


def test_inputs_hide_and_targets_ignore() -> None:
    random = np.random.default_rng(1)
    made = mask(TOKENS, codebook=1, span=3, schedule="linear", random=random)
    inputs, targets = made.inputs(999), made.targets(-100)
    assert torch.equal(inputs == 999, made.hidden)
    assert torch.equal(inputs[~made.hidden], TOKENS[~made.hidden])
    assert torch.equal(targets[made.judged], TOKENS[made.judged])
    assert (targets[~made.judged] == -100).all()
