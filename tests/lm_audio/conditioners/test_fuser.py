"""Conditioners together, against each of them alone."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.number import NumberConditioner
from lm_audio.conditioners.tokens import AlignedTokens, TokenConditioner
from lm_audio.networks.condition import Fused

D = 4
TOKENS = torch.tensor([[1, 2, 2, 0, 1]])


@pytest.fixture
def label() -> LabelConditioner:
    return LabelConditioner(["dog", "rain"], D)


@pytest.fixture
def tokens() -> TokenConditioner:
    return TokenConditioner(3, D, null="none")


@pytest.fixture
def aligned() -> AlignedTokens:
    return AlignedTokens(3, D, look_ahead=1, ratio=Fraction(1, 2))


@pytest.mark.parametrize("way", ["cross", "prepend"])
def test_conditions_of_one_way_follow_in_order_without_gaps(
    label: LabelConditioner, tokens: TokenConditioner, way: str
) -> None:
    number = NumberConditioner(D, 0.0, 10.0)
    parts = {"label": label, "tokens": tokens, "duration": number}
    if way == "cross":
        parts["tokens"] = TokenConditioner(3, D, null="zero")
    conditioners = Conditioners(parts, {"tokens": way, "label": way, "duration": way})
    values = {
        "label": ["dog", None, "rain"],
        "tokens": [TOKENS[:, :2], None, TOKENS],
        "duration": [5.0, 6.0, None],
    }

    fused = conditioners(values)

    condition = getattr(fused, way)
    assert [fused.cross, fused.prepend, fused.sum].count(None) == 2
    for b in range(3):
        rows = [parts[name]([values[name][b]]).embeddings[0] for name in conditioners.fuse]
        row = torch.cat(rows)
        length = len(row)
        assert torch.equal(condition.embeddings[b, :length], row)
        assert not condition.embeddings[b, length:].any()
        assert condition.mask[b].sum() == length
        assert condition.mask[b, :length].all()


def test_a_prefix_may_be_empty(tokens: TokenConditioner) -> None:
    prefix = Conditioners({"tokens": tokens}, {"tokens": "prepend"})({"tokens": [None]}).prepend

    assert prefix is not None
    assert prefix.embeddings.shape == (1, 0, D)
    assert prefix.mask.shape == (1, 0)


def test_sums_of_length_one_are_added_at_every_frame(
    label: LabelConditioner, aligned: AlignedTokens
) -> None:
    number = NumberConditioner(D, 0.0, 10.0)
    parts = {"label": label, "semantic": aligned, "duration": number}
    conditioners = Conditioners(parts, dict.fromkeys(parts, "sum"))
    values = {"label": ["dog", "rain"], "semantic": [TOKENS, None], "duration": [5.0, None]}

    for frames in (None, torch.arange(3, 7), torch.tensor([[0, 1], [8, 9]])):
        total = conditioners(values, frames=frames).sum
        expected = (
            label(values["label"]).embeddings
            + aligned(values["semantic"], frames=frames)
            + number(values["duration"]).embeddings
        )
        assert isinstance(total, Tensor)
        assert total.shape == (2, 10 if frames is None else frames.shape[-1], D)
        torch.testing.assert_close(total, expected, rtol=0, atol=1e-6)


def test_every_way_at_once_and_names_left_out_get_nulls(
    label: LabelConditioner, tokens: TokenConditioner, aligned: AlignedTokens
) -> None:
    parts = {"label": label, "tokens": tokens, "semantic": aligned}
    conditioners = Conditioners(parts, {"tokens": "prepend", "semantic": "sum", "label": "cross"})

    fused = conditioners({"label": ["dog", "rain"]})

    explicit = conditioners(
        {"label": ["dog", "rain"], "tokens": [None, None], "semantic": [None, None]}
    )
    assert fused.cross is not None
    assert fused.prepend is not None
    assert fused.sum is not None
    assert explicit.cross is not None
    assert explicit.sum is not None
    assert torch.equal(fused.cross.embeddings, label(["dog", "rain"]).embeddings)
    assert fused.prepend.embeddings.shape == (2, 0, D)
    assert torch.equal(fused.sum, explicit.sum)
    assert fused.sum.shape == (2, 1, D)


def test_a_row_does_not_depend_on_its_batch(
    label: LabelConditioner, tokens: TokenConditioner, aligned: AlignedTokens
) -> None:
    parts = {"label": label, "tokens": tokens, "semantic": aligned}
    conditioners = Conditioners(parts, {"label": "prepend", "tokens": "prepend", "semantic": "sum"})
    values = {
        "label": ["dog", None, "rain"],
        "tokens": [TOKENS, TOKENS[:, :3], None],
        "semantic": [TOKENS[:, :1], None, TOKENS],
    }

    batch = conditioners(values, frames=torch.arange(12))

    assert batch.prepend is not None
    assert batch.sum is not None
    for b in range(3):
        one = {name: given[b : b + 1] for name, given in values.items()}
        alone = conditioners(one, frames=torch.arange(12))
        assert alone.prepend is not None
        assert alone.sum is not None
        real = batch.prepend.embeddings[b, batch.prepend.mask[b]]
        assert torch.equal(alone.prepend.embeddings[0], real)
        assert torch.equal(alone.sum[0], batch.sum[b])


def test_a_model_without_conditions_takes_none() -> None:
    conditioners = Conditioners({}, {})

    assert conditioners({}) == Fused()
    with pytest.raises(ValueError, match=r"Unknown condition 'text'. The model accepts: none\."):
        conditioners({"text": ["rain"]})


def test_weights_are_named_after_the_conditions(label: LabelConditioner) -> None:
    names = Conditioners({"class": label}, {"class": "sum"}).state_dict().keys()

    assert names == {"class.embedding.weight", "class.null.embedding"}


def test_values_that_do_not_fit_are_refused(
    label: LabelConditioner, tokens: TokenConditioner
) -> None:
    conditioners = Conditioners(
        {"label": label, "tokens": tokens}, {"label": "sum", "tokens": "prepend"}
    )

    message = r"Unknown condition 'text'\. The model accepts: label, tokens\."
    with pytest.raises(ValueError, match=message):
        conditioners({"text": ["rain"]})
    for given in ("dog", [], None):
        with pytest.raises(ValueError, match="'label' must be a list of at least one value"):
            conditioners({"label": given})
    message = "equally many values of each of: label, tokens; got 1 for 'label', 2 for 'tokens'"
    with pytest.raises(ValueError, match=message):
        conditioners({"label": ["dog"], "tokens": [None, None]})
    with pytest.raises(ValueError, match=r"equally many values of each of: .* got none"):
        conditioners({})


def test_only_single_entries_can_be_summed() -> None:
    tokens = TokenConditioner(3, D, null="zero")
    conditioners = Conditioners({"tokens": tokens}, {"tokens": "sum"})

    message = "'tokens' has 5 entries per row, but only one can be summed. Use 'cross'"
    with pytest.raises(ValueError, match=message):
        conditioners({"tokens": [TOKENS]})


def test_ways_to_fuse_that_make_no_sense_are_refused(
    label: LabelConditioner, tokens: TokenConditioner, aligned: AlignedTokens
) -> None:
    with pytest.raises(ValueError, match=r"got \['a'\] and \['b'\]"):
        Conditioners({"a": label}, {"b": "sum"})
    with pytest.raises(
        ValueError, match=r"Unknown fuse method 'add' for 'a'\. Choose one of: cross, pre"
    ):
        Conditioners({"a": label}, {"a": "add"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="'a' is aligned with frames"):
        Conditioners({"a": aligned}, {"a": "cross"})
    for way in ("cross", "sum"):
        with pytest.raises(ValueError, match=f"'a' has no null, so '{way}' would fail"):
            Conditioners({"a": tokens}, {"a": way})  # type: ignore[dict-item]
    wide = LabelConditioner(["dog"], 5)
    with pytest.raises(ValueError, match="must have the same width, got a 4, b 5"):
        Conditioners({"a": label, "b": wide}, {"a": "sum", "b": "sum"})
