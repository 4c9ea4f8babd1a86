"""The probe against scikit-learn."""

import pytest
import torch

from measures.probe import fit_probe


@pytest.mark.parametrize("penalty", [1.0, 100.0])
def test_the_probe_is_logistic_regression(penalty: float) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    random = torch.Generator().manual_seed(0)
    owners = torch.arange(60) % 3
    vectors = torch.randn(60, 8, generator=random) * 3 + owners[:, None]
    vectors[:, 7] = 5.0  # constant: it says nothing and divides by nothing
    labels = [f"class {i}" for i in owners.tolist()]
    probe = fit_probe(vectors, labels, penalty=penalty)
    scaler = preprocessing.StandardScaler().fit(vectors.double().numpy())
    x = scaler.transform(vectors.double().numpy())
    theirs = sklearn.LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(x, labels)
    torch.testing.assert_close(
        probe.weight[:, :7], torch.from_numpy(theirs.coef_)[:, :7], rtol=0, atol=1e-4
    )
    new = torch.randn(40, 8, generator=random) * 3
    assert probe(new) == theirs.predict(scaler.transform(new.double().numpy())).tolist()


def test_one_label_is_not_enough() -> None:
    with pytest.raises(ValueError, match="Got 1 distinct labels; expected at least two"):
        fit_probe(torch.zeros(2, 3), ["a", "a"])
