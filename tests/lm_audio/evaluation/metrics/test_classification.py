"""Labels and neighbours against torch, closed forms and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lm_audio.evaluation.metrics.classification import kl_divergence, label_accuracy, nearest_labels


def test_divergence_is_the_sum_over_labels_and_zero_for_equal_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    generated, real = torch.randn(2, 5, 9, generator=generator).softmax(dim=-1)
    expected = (real * (real / (generated + 1e-6)).log()).sum(dim=-1)
    assert torch.allclose(kl_divergence(generated, real), expected, atol=1e-6)
    assert kl_divergence(real, real).abs().max() < 1e-4
    certain = torch.tensor([[1.0, 0.0]])  # a label of probability 0 costs nothing
    assert kl_divergence(torch.tensor([[0.5, 0.5]]), certain).item() == pytest.approx(
        np.log(2), abs=1e-5
    )


def test_accuracy_counts_the_likeliest_label() -> None:
    probabilities = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    right = label_accuracy(probabilities, ["dog", "rain", "rain"], ["dog", "rain"])
    assert right.tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"Unknown label 'cat'. Use the classifier's 2 labels"):
        label_accuracy(probabilities, ["cat", "dog", "dog"], ["dog", "rain"])


def test_neighbours_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    known, queries = random.standard_normal((60, 7)), random.standard_normal((40, 7))
    labels = [f"kind {i}" for i in random.integers(4, size=60)]
    reference = KNeighborsClassifier(5, metric="cosine").fit(known, labels)
    got = nearest_labels(torch.from_numpy(queries), torch.from_numpy(known), labels, k=5)
    assert got == reference.predict(queries).tolist()
