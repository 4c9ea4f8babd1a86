import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from audio_tokenizers.semantic.kmeans import FeatureSource
from audio_tokenizers.semantic.kmeans_training import KMeansConfig, _Reservoir, train_kmeans

SOURCE = FeatureSource(model="hubert-0123", layer=9)


def blobs(num_rows: int = 3_000) -> Tensor:
    """Twelve clusters, in dimensions of very different scale, one of them constant: [n, 5]."""
    random = torch.Generator().manual_seed(0)
    centers = torch.rand(12, 5, generator=random) * 20
    rows = centers[torch.randint(12, (num_rows,), generator=random)]
    rows = rows + 0.3 * torch.randn(num_rows, 5, generator=random)
    rows = rows * torch.tensor([1e-3, 1, 50, 1, 1]) + torch.tensor([0, 1e3, 0, -5, 0])
    rows[:, 4] = 3.1
    return rows


class Stream:
    """Features that are made anew for each pass, in pieces of uneven size."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        yield from self.rows.tensor_split([1, 1, 200, 1_500, 1_507])


CONFIG = KMeansConfig(num_clusters=12, batch_size=500, sample_size=400)


def test_the_clusters_are_as_good_as_those_of_full_k_means() -> None:
    rows = blobs()
    codebook, report = train_kmeans(Stream(rows), CONFIG, source=SOURCE)
    standardized = ((rows - codebook.mean) / codebook.std).numpy()
    full = KMeans(12, n_init=10, random_state=0).fit(standardized)
    assert report.num_rows == 3_000
    assert report.num_used == 12
    assert report.inertia < 1.05 * full.inertia_ / 3_000
    tokens = codebook.assign(rows[None])[0]
    own = codebook.centroids[tokens].numpy() - standardized
    assert report.inertia == pytest.approx(float((own**2).sum(1).mean()), rel=1e-5)
    assert codebook.source == SOURCE


def test_the_statistics_are_those_of_all_rows_at_once() -> None:
    rows = blobs()
    codebook, _ = train_kmeans(Stream(rows), CONFIG, source=SOURCE)
    expected = rows.double()
    torch.testing.assert_close(codebook.mean, expected.mean(0).float())
    std = expected.std(0, correction=0).float()
    torch.testing.assert_close(codebook.std[:4], std[:4], rtol=1e-6, atol=0)
    assert codebook.std[4] == 1  # of a constant
    assert codebook.centroids[:, 4].abs().max() < 1e-3


def test_standardisation_can_be_left_out() -> None:
    rows = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    config = KMeansConfig(num_clusters=1, standardize=False, num_passes=1)
    codebook, report = train_kmeans([rows], config, source=SOURCE)
    assert codebook.mean.tolist() == [0, 0, 0]
    assert codebook.std.tolist() == [1, 1, 1]
    torch.testing.assert_close(codebook.centroids[0], rows.mean(0), atol=1e-4, rtol=1e-4)
    assert report.inertia == pytest.approx(float((rows - rows.mean(0)).square().sum(1).mean()))


def test_the_seed_alone_decides() -> None:
    rows = torch.randn(2_000, 5, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        train_kmeans(
            Stream(rows),
            KMeansConfig(num_clusters=20, batch_size=500, sample_size=400, seed=seed),
            source=SOURCE,
        )[0]
        for seed in (1, 1, 2)
    )
    assert first.identity == again.identity
    assert first.identity != other.identity


def test_the_pieces_of_the_stream_do_not_matter() -> None:
    rows = blobs()
    pieces, _ = train_kmeans(Stream(rows), CONFIG, source=SOURCE)
    whole, _ = train_kmeans([rows], CONFIG, source=SOURCE)
    torch.testing.assert_close(pieces.centroids, whole.centroids, atol=1e-4, rtol=1e-4)


def test_passes_are_reported_and_no_more_are_read() -> None:
    stream, calls = Stream(blobs()), []
    train_kmeans(stream, CONFIG, source=SOURCE, on_batch=lambda *call: calls.append(call))
    assert stream.passes == CONFIG.num_passes + 2
    assert calls[-6:] == [(5, rows) for rows in (1, 1, 200, 1_500, 1_507, 3_000)]
    assert {number for number, _ in calls} == set(range(6))


def test_the_reservoir_is_a_uniform_sample() -> None:
    counts = np.zeros(100)
    for seed in range(400):
        reservoir = _Reservoir(20, seed=seed)
        for part in np.array_split(np.arange(100, dtype=np.float32)[:, None], 7):
            reservoir.add(part)
        kept = reservoir.rows()[:, 0].astype(int)
        assert len(set(kept)) == 20
        counts[kept] += 1
    # Each row is kept 80 times in the mean; the standard deviation is 8.
    assert counts.min() > 40
    assert counts.max() < 120
    assert abs(counts[:20].mean() - counts[80:].mean()) < 10


def test_features_that_cannot_be_clustered_are_refused() -> None:
    rows = blobs(100)
    with pytest.raises(ValueError, match="Got a generator, which can be read only once"):
        train_kmeans((part for part in [rows]), CONFIG, source=SOURCE)
    with pytest.raises(ValueError, match="Got 11 rows of features; expected at least"):
        train_kmeans([rows[:11]], CONFIG, source=SOURCE)
    with pytest.raises(ValueError, match="Got 0 rows of features"):
        train_kmeans([], CONFIG, source=SOURCE)
    with pytest.raises(ValueError, match=r"of shape \[100, 4\]; expected \[n, D\] with the same"):
        train_kmeans([rows, rows[:, :4]], CONFIG, source=SOURCE)
    with pytest.raises(ValueError, match="Got NaN or infinite features"):
        train_kmeans([rows, rows / 0], CONFIG, source=SOURCE)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="Got num_clusters=0 and num_passes=4; expected 1 or more"):
        KMeansConfig(num_clusters=0)
    with pytest.raises(ValueError, match=r"batch_size=10 and .* expected at least num_clusters=20"):
        KMeansConfig(num_clusters=20, batch_size=10)


def test_a_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"install it with: pip install 'lm-audio\[train\]'"):
        train_kmeans([blobs()], CONFIG, source=SOURCE)
