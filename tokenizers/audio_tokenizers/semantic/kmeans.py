"""The codebook that maps features to semantic tokens: k-means centroids.

As in AudioLM (arXiv 2209.03143), each dimension is standardised before clustering. Training is in
`kmeans_training`.

Shapes: B batch, T frames, n rows, D width, V clusters.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.identity import hash_tensors

FORMAT = "k-means codebook 1"
MAX_SCORES = 2**24  # distances in memory at a time while assigning


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """The features that a codebook is for."""

    model: str
    """The identity of the feature extractor, which includes a hash of its weights."""
    layer: int
    pooling: int = 1
    """Number of extractor frames to average per token."""

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise ValueError(f"Got layer {self.layer}; expected 0 or more.")
        if self.pooling < 1:
            raise ValueError(f"Got pooling {self.pooling}; expected 1 or more.")


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansCodebook:
    """Centroids [V, D] of features standardised by `mean` [D] and `std` [D], all float32.

    Without standardisation, as in fairseq's k-means, `mean` is 0 and `std` is 1.
    """

    centroids: Tensor
    mean: Tensor
    std: Tensor
    source: FeatureSource

    def __post_init__(self) -> None:
        shapes = [list(x.shape) for x in (self.centroids, self.mean, self.std)]
        if (
            self.centroids.ndim != 2
            or 0 in shapes[0]
            or not shapes[0][1:] == shapes[1] == shapes[2]
        ):
            raise ValueError(
                f"Got centroids, mean and std of shapes {shapes}; expected [V, D], [D] and [D]."
            )
        if not all(x.isfinite().all() for x in (self.centroids, self.mean, self.std)):
            raise ValueError(
                "Got NaN or infinite centroids or statistics; train the k-means again."
            )
        if not bool((self.std > 0).all()):
            raise ValueError("Got a std of 0 or less; expected positive values (1 for constants).")

    @staticmethod
    def from_centroids(centroids: Tensor, *, source: FeatureSource) -> "KMeansCodebook":
        """A codebook of centroids [V, D] over features without standardisation, as in fairseq."""
        zeros = torch.zeros_like(centroids[0])
        return KMeansCodebook(centroids=centroids, mean=zeros, std=zeros + 1, source=source)

    @property
    def num_tokens(self) -> int:
        """V"""
        return self.centroids.shape[0]

    @property
    def width(self) -> int:
        """D"""
        return self.centroids.shape[1]

    @cached_property
    def identity(self) -> str:
        """Names the values and the features' source; equal identities give equal tokens."""
        text = hash_tensors(self._tensors()) + json.dumps(self._metadata(), sort_keys=True)
        return f"kmeans{self.num_tokens}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @torch.no_grad()
    def assign(self, features: Tensor) -> Tensor:
        """The nearest centroid of each frame: features [B, T, D] to tokens [B, T], int64.

        Distances are float64; ties go to the lowest index.
        """
        if features.ndim != 3 or features.shape[2] != self.width:
            raise ValueError(
                f"Got features of shape {list(features.shape)}; expected [B, T, {self.width}]."
            )
        device = features.device
        work = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        mean, std, centroids = (x.to(work).double() for x in (self.mean, self.std, self.centroids))
        half_norms = centroids.square().sum(1) / 2  # [V]
        tokens = []
        for rows in features.to(work).flatten(0, 1).split(max(1, MAX_SCORES // self.num_tokens)):
            x = (rows.double() - mean) / std  # [n, D]
            scores = (
                half_norms - x @ centroids.T
            )  # half the squared distances, up to a constant per frame
            best = scores.min(1, keepdim=True).values
            # Rounding in the product can separate equal distances by less than this.
            scale = x.norm(dim=1, keepdim=True) * half_norms.max().mul(2).sqrt() + half_norms.max()
            tied = scores <= best + 1e-13 * scale
            tokens.append(tied.byte().argmax(1))  # the first of the greatest
        return torch.cat(tokens).view(features.shape[:2]).to(device)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file with the source in its metadata."""
        with replacing(path) as temporary:
            # One entry, since several are written in random order and equal files would differ.
            about = {"lm-audio": json.dumps(self._metadata(), sort_keys=True)}
            save_file(self._tensors(), temporary, metadata=about)

    @staticmethod
    def load(path: str | Path) -> "KMeansCodebook":
        """Loads a codebook from `save`."""
        if not Path(path).is_file():
            raise ValueError(f"{path} does not exist; check the path.")
        try:
            with safe_open(path, framework="pt") as file:
                entries = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or not a safetensors file ({error}).") from error
        metadata = json.loads(entries["lm-audio"]) if "lm-audio" in entries else entries
        if metadata.get("format") != FORMAT or tensors.keys() != {"centroids", "mean", "std"}:
            raise ValueError(f"{path} is not a codebook from KMeansCodebook.save.")
        return KMeansCodebook(**tensors, source=FeatureSource(**json.loads(metadata["source"])))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"centroids": self.centroids, "mean": self.mean, "std": self.std}
        return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}

    def _metadata(self) -> dict[str, str]:
        return {"format": FORMAT, "source": json.dumps(asdict(self.source), sort_keys=True)}
