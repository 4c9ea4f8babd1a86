"""Conditioners become plain values, and these become the same conditioners."""

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.description import (
    build_conditioners,
    describe_conditioners,
    text_encoders,
)
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.number import NumberConditioner
from lm_audio.conditioners.text import OwnTextEncoder, OwnTextEncoderConfig, TextConditioner
from lm_audio.conditioners.tokens import AlignedTokens, TokenConditioner
from lm_audio.networks.condition import Condition
from lm_audio.networks.transformer import TransformerConfig

D = 16
TOKENS = torch.tensor([[3, 3, 1, 0], [2, 2, 4, 1]])


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(["a dog barks in the rain", "birds sing"] * 3, 275)


def own_text(tokenizer: SentencePieceTokenizer) -> nn.Module:
    shape = TransformerConfig(dim=D, num_layers=1, num_heads=2, hidden_dim=24, causal=False)
    config = OwnTextEncoderConfig(transformer=shape, vocab_size=tokenizer.vocab_size, max_length=40)
    return TextConditioner(OwnTextEncoder(config, tokenizer), D, null="learned", project=False)


def rebuilt(conditioners: Conditioners, tokenizer: SentencePieceTokenizer) -> Conditioners:
    """By way of JSON, with the weights of the first."""
    read = json.loads(json.dumps(describe_conditioners(conditioners)))
    built = build_conditioners(read, dim=D, frozen=None, own_tokenizer=lambda _: tokenizer)
    built.load_state_dict(conditioners.state_dict())
    return built.eval()


CASES: dict[str, tuple[Callable[[SentencePieceTokenizer], nn.Module], str, Any]] = {
    "label": (lambda _: LabelConditioner(["dog", "rain"], D, null="zero"), "cross", "rain"),
    "number": (lambda _: NumberConditioner(D, -1.5, 30, num_waves=5, null="none"), "prepend", 7.5),
    "tokens": (
        lambda _: TokenConditioner(5, D, num_codebooks=2, deduplicate=True, null="none"),
        "prepend",
        TOKENS,
    ),
    "aligned": (
        lambda _: AlignedTokens(5, D, look_ahead=2, ratio=Fraction(2, 3)),
        "sum",
        TOKENS[:1],
    ),
    "text": (own_text, "cross", "a dog in the rain"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_conditioner_comes_back_to_the_bit(case: str, tokenizer: SentencePieceTokenizer) -> None:
    make, fuse, value = CASES[case]
    before = Conditioners({case: make(tokenizer)}, {case: fuse}).eval()
    after = rebuilt(before, tokenizer)
    assert after.fuse == before.fuse
    with torch.no_grad():
        for given in (value, None):
            expected, found = before({case: [given]}), after({case: [given]})
            for way in ("cross", "prepend", "sum"):
                assert_same(getattr(expected, way), getattr(found, way))


def assert_same(expected: object, found: object) -> None:
    if isinstance(expected, Condition) and isinstance(found, Condition):
        assert torch.equal(expected.mask, found.mask)
        expected, found = expected.embeddings, found.embeddings
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        assert torch.equal(expected, found)
    else:
        assert expected is found is None


def test_all_together_keep_their_order(tokenizer: SentencePieceTokenizer) -> None:
    names = ["text", "number", "label", "aligned", "tokens"]
    before = Conditioners(
        {name: CASES[name][0](tokenizer) for name in names},
        {name: CASES[name][1] for name in names},
    )
    assert list(rebuilt(before, tokenizer).fuse) == names
    assert list(text_encoders(before)) == ["text"]


def test_other_conditioners_and_encoders_cannot_be_described() -> None:
    class Other(LabelConditioner):
        pass

    class OtherEncoder:
        dim = D

        def encode(self, texts: list[str]) -> list[torch.Tensor]:
            return [torch.zeros(1, D) for _ in texts]

    other = Conditioners({"x": Other(["a"], D)}, {"x": "cross"})
    with pytest.raises(ValueError, match=r"'x' is a Other, which cannot be saved. Supported types"):
        describe_conditioners(other)
    text = Conditioners({"x": TextConditioner(OtherEncoder(), D)}, {"x": "cross"})
    with pytest.raises(ValueError, match=r"'x' is a OtherEncoder, which cannot be saved"):
        describe_conditioners(text)


def test_an_unknown_type_is_refused(tokenizer: SentencePieceTokenizer) -> None:
    with pytest.raises(ValueError, match=r"Unknown type 'os' of condition 'x'. Known types"):
        build_conditioners(
            {"x": {"type": "os", "fuse": "sum"}},
            dim=D,
            frozen=None,
            own_tokenizer=lambda _: tokenizer,
        )
