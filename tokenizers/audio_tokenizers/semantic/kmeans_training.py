"""Trains a k-means codebook on streamed features, in constant memory.

The features are read several times: for the mean and deviation of each dimension and a random
sample, from which k-means++ initialises the centroids; for mini-batch k-means; and to measure the
result. Requires the extra `train`.

Shapes: n rows, D width, V clusters.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook

Rows = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    num_clusters: int
    seed: int = 0
    num_passes: int = 4
    """Passes of mini-batch k-means over all rows, in addition to two for measuring."""
    batch_size: int = 10_000
    """Rows per mini-batch, regardless of the sizes of the input batches."""
    sample_size: int = 50_000
    """Number of random rows from which k-means++ initialises the centroids."""
    standardize: bool = True

    def __post_init__(self) -> None:
        if self.num_clusters < 1 or self.num_passes < 1:
            raise ValueError(
                f"Got num_clusters={self.num_clusters} and num_passes={self.num_passes}; expected "
                "1 or more of both."
            )
        if min(self.batch_size, self.sample_size) < self.num_clusters:
            raise ValueError(
                f"Got batch_size={self.batch_size} and sample_size={self.sample_size}; expected "
                f"at least num_clusters={self.num_clusters}."
            )


@dataclass(frozen=True, kw_only=True)
class KMeansReport:
    num_rows: int
    inertia: float
    """Mean squared distance of rows to their centroids; standardised rows have variance D."""
    num_used: int
    """Number of clusters with at least one row."""


def train_kmeans(
    batches: Iterable[Tensor],
    config: KMeansConfig,
    *,
    source: FeatureSource,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[KMeansCodebook, KMeansReport]:
    """Fits a codebook to features that need not fit in memory; deterministic given the seed.

    Args:
        batches: features [n, D], of any n; iterated several times, so pass a list or an object
            whose `__iter__` restarts, not a generator. Mixing clips within 10,000 rows helps.
        on_batch: called with the number of the pass, from 0, and the rows it has read so far.
    """
    if isinstance(batches, Iterator):
        raise ValueError(
            f"Got a {type(batches).__name__}, which can be read only once, but k-means reads the "
            "features several times; pass a list or an object whose __iter__ restarts."
        )
    try:
        from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus
    except ImportError as error:
        raise ImportError(
            "Training k-means needs scikit-learn; install it with: pip install 'lm-audio[train]'."
        ) from error
    estimator = MiniBatchKMeans(
        config.num_clusters, n_init=1, random_state=config.seed, compute_labels=False
    )
    moments, sample = _Moments(), _Reservoir(config.sample_size, seed=config.seed)
    for rows in _read(batches, 0, on_batch):
        moments.add(rows)
        sample.add(rows)
    if moments.count < config.num_clusters:
        raise ValueError(
            f"Got {moments.count} rows of features; expected at least as many as the "
            f"{config.num_clusters} clusters."
        )
    mean, std = moments.statistics() if config.standardize else moments.neutral()
    sample_rows = (sample.rows() - mean) / std
    estimator.init = kmeans_plusplus(sample_rows, config.num_clusters, random_state=config.seed)[0]
    for number in range(1, config.num_passes + 1):
        for rows in _in_batches(_read(batches, number, on_batch), config.batch_size):
            estimator.partial_fit((rows - mean) / std)
    codebook = KMeansCodebook(
        centroids=torch.from_numpy(estimator.cluster_centers_.astype(np.float32)),
        mean=torch.from_numpy(mean),
        std=torch.from_numpy(std),
        source=source,
    )
    return codebook, _measure(codebook, _read(batches, config.num_passes + 1, on_batch))


def _read(
    batches: Iterable[Tensor], number: int, on_batch: Callable[[int, int], None] | None
) -> Iterator[Rows]:
    """Yields validated batches as float32 arrays [n, D]."""
    count, width = 0, None
    for batch in batches:
        if batch.ndim != 2 or (width is not None and batch.shape[1] != width):
            raise ValueError(
                f"Got a batch of features of shape {list(batch.shape)}; expected [n, D] with the "
                "same D for all."
            )
        if not batch.isfinite().all():
            raise ValueError("Got NaN or infinite features; remove the audio that causes them.")
        count, width = count + len(batch), batch.shape[1]
        yield batch.detach().float().cpu().numpy()
        if on_batch is not None:
            on_batch(number, count)


def _in_batches(parts: Iterable[Rows], size: int) -> Iterator[Rows]:
    """Yields arrays of `size` rows; the last may be smaller."""
    waiting: list[Rows] = []
    count = 0
    for part in parts:
        while len(part):
            taken, part = part[: size - count], part[size - count :]
            waiting.append(taken)
            count += len(taken)
            if count == size:
                yield np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _measure(codebook: KMeansCodebook, parts: Iterable[Rows]) -> KMeansReport:
    counts = torch.zeros(codebook.num_tokens, dtype=torch.int64)
    total = 0.0
    for part in parts:
        rows = torch.from_numpy(part)
        tokens = codebook.assign(rows[None])[0]  # [n]
        standardized = (rows - codebook.mean) / codebook.std
        total += float((standardized - codebook.centroids[tokens]).double().square().sum())
        counts += torch.bincount(tokens, minlength=codebook.num_tokens)
    num_rows = int(counts.sum())
    return KMeansReport(
        num_rows=num_rows, inertia=total / num_rows, num_used=int((counts > 0).sum())
    )


class _Moments:
    """Running mean and variance of each dimension, by Chan, Golub and LeVeque's method."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0  # [D], float64
        self.squares: Any = 0.0  # [D]: the sum of squared differences from the mean

    def add(self, rows: Rows) -> None:
        if not len(rows):
            return
        n, mean = len(rows), rows.mean(0, dtype=np.float64)
        difference = mean - self.mean
        total = self.count + n
        self.squares = self.squares + np.square(rows - mean).sum(0)
        self.squares += np.square(difference) * (self.count * n / total)
        self.mean = self.mean + difference * (n / total)
        self.count = total

    def statistics(self) -> tuple[Rows, Rows]:
        """Mean and standard deviation [D]; 1 for the deviation of a constant dimension."""
        std = np.sqrt(self.squares / self.count)
        noise = np.finfo(np.float32).eps * np.abs(self.mean)  # rounding error of constants
        std = np.where(std <= noise, 1.0, std)
        return self.mean.astype(np.float32), std.astype(np.float32)

    def neutral(self) -> tuple[Rows, Rows]:
        return np.zeros_like(self.mean, np.float32), np.ones_like(self.mean, np.float32)


class _Reservoir:
    """A uniform random sample of the rows of a stream of unknown length (Vitter's algorithm R)."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        self.seen = 0
        self.kept: Rows | None = None  # [size, D]; memory is used as it fills

    def add(self, rows: Rows) -> None:
        if self.kept is None:
            self.kept = np.empty((self.size, rows.shape[1]), np.float32)
        index = np.arange(self.seen, self.seen + len(rows))
        places = np.where(index < self.size, index, self.random.integers(0, index + 1))
        kept = places < self.size
        self.kept[places[kept]] = rows[kept]  # the last of rows with the same place wins
        self.seen += len(rows)

    def rows(self) -> Rows:
        assert self.kept is not None
        return self.kept[: self.seen]
