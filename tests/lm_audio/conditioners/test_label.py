"""Labels out of a fixed list."""

import pytest
import torch

from lm_audio.conditioners.label import LabelConditioner


def test_each_label_has_its_vector_and_none_the_null() -> None:
    conditioner = LabelConditioner(["dog", "rain", "sea"], 4)

    condition = conditioner(["sea", None, "dog", "sea"])

    assert condition.embeddings.shape == (4, 1, 4)
    assert condition.mask.all()
    rows = condition.embeddings[:, 0]
    weight = conditioner.embedding.weight
    assert torch.equal(rows[[0, 2, 3]], weight[[2, 0, 2]])
    assert torch.equal(rows[1], conditioner.null.embedding[0])


def test_both_labels_and_null_are_learned() -> None:
    conditioner = LabelConditioner(["dog", "rain"], 4)

    conditioner(["rain", None]).embeddings.sum().backward()

    gradient = conditioner.embedding.weight.grad
    assert gradient is not None
    assert gradient.sum(dim=1).tolist() == [0, 4]
    assert conditioner.null.embedding.grad is not None


def test_an_unknown_label_names_the_choices() -> None:
    few = LabelConditioner(["dog", "rain"], 4)
    with pytest.raises(ValueError, match=r"^Unknown label 7\. Choose one of: dog, rain\.$"):
        few([7])
    with pytest.raises(
        ValueError, match=r"'dgo'. Did you mean 'dog'\? Choose one of: dog, rain\.$"
    ):
        few(["dgo"])
    many = LabelConditioner([f"speaker {i}" for i in range(200)], 4)
    message = r"Did you mean 'speaker 11\d?'\? Choose one of 200: speaker 0, .*, speaker 9, \.\.\.$"
    with pytest.raises(ValueError, match=message):
        many(["spaeker 11"])


def test_labels_that_are_not_distinct_are_refused() -> None:
    with pytest.raises(ValueError, match="must be distinct and non-empty, got 3, of which 2"):
        LabelConditioner(["dog", "rain", "dog"], 4)
    for labels in ([], "dog"):
        with pytest.raises(ValueError, match="must be distinct and non-empty"):
            LabelConditioner(labels, 4)
