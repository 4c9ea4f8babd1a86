"""A semantic tokenizer of features: extractor, layer, pooling and k-means codebook.

Shapes: B batch, C channels, N samples, T frames, D width.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.semantic.extractor import (
    WINDOW_SECONDS,
    FeatureExtractor,
    WindowedFeatureExtractor,
)
from audio_tokenizers.semantic.fairseq2_features import Fairseq2Features
from audio_tokenizers.semantic.features import FAIRSEQ2_PREFIX, TransformersFeatures, load_features
from audio_tokenizers.semantic.frames import pool_frames
from audio_tokenizers.semantic.kmeans import KMeansCodebook

MODEL_TYPE = "feature-tokenizer"
_CENTROIDS = "centroids.safetensors"


class FeatureTokenizer:
    """A semantic tokenizer: `codebook` over its layer and pooling of `extractor`."""

    def __init__(self, extractor: FeatureExtractor, codebook: KMeansCodebook) -> None:
        source = codebook.source
        if source.model != extractor.identity:
            raise ValueError(
                f"The codebook is for the model {source.model}, but got {extractor.identity}; load "
                "the model that the codebook was trained with."
            )
        if source.layer > extractor.num_layers or codebook.width != extractor.width:
            raise ValueError(
                f"The codebook is for layer {source.layer} with {codebook.width} dimensions, but "
                f"the model has {extractor.num_layers} layers of {extractor.width}; load the model "
                "that the codebook was trained with."
            )
        self.extractor = extractor
        self.codebook = codebook

    @property
    def identity(self) -> str:
        """Names the model, layer, codebook and weights; equal identities give equal tokens."""
        source = self.codebook.source
        place = f"layer{source.layer}-pool{source.pooling}"
        return f"{self.extractor.identity}-{place}-{self.codebook.identity}"

    @property
    def sample_rate(self) -> int:
        return self.extractor.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames per second after pooling."""
        return self.extractor.frame_rate / self.codebook.source.pooling

    @property
    def num_tokens(self) -> int:
        return self.codebook.num_tokens

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [B, C, N], float32 at `sample_rate`, into tokens [B, 1, T], int64.

        Long audio is encoded window by window; the tokens are those of `features`.
        """
        source = self.codebook.source
        if isinstance(self.extractor, WindowedFeatureExtractor):
            pieces = self.extractor.feature_windows(samples, source.layer)
        else:
            pieces = iter([self.extractor.features(samples, source.layer)])
        pooled = (pool_frames(piece, source.pooling) for piece in regroup(pieces, source.pooling))
        tokens = [self.codebook.assign(piece) for piece in pooled]
        return torch.cat(tokens, dim=1)[:, None]  # [B, 1, T]

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """Activations after `layer` (0: its input), pooled to `frame_rate`: [B, T, D].

        The codebook is trained on those of its own layer.
        """
        return pool_frames(self.extractor.features(samples, layer), self.codebook.source.pooling)


def regroup(pieces: Iterable[Tensor], factor: int) -> Iterator[Tensor]:
    """Yields pieces [B, T', D] with T' a multiple of `factor`, except for the last."""
    waiting: Tensor | None = None
    for piece in pieces:
        joined = piece if waiting is None else torch.cat([waiting, piece], dim=1)
        whole = joined.shape[1] // factor * factor
        if whole:
            yield joined[:, :whole]
        waiting = joined[:, whole:]
    if waiting is not None and waiting.shape[1]:
        yield waiting


def save_feature_tokenizer(
    tokenizer: FeatureTokenizer, folder: str | Path, *, model: str | Path
) -> None:
    """Writes the codebook and a reference to the model, not the model itself.

    Args:
        model: source of the model for `load_features`: a hub id, "fairseq2:" and a fairseq2 name,
            a folder, or a path relative to `folder`.
    """
    folder = Path(folder)
    extractor = tokenizer.extractor
    config: dict[str, str | float] = {"model_type": MODEL_TYPE, "model": str(model)}
    if isinstance(extractor, TransformersFeatures | Fairseq2Features):
        config["window_seconds"] = extractor.window_seconds
    tokenizer.codebook.save(folder / _CENTROIDS)
    with replacing(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")


def load_feature_tokenizer(
    folder: str | Path,
    *,
    extractor: FeatureExtractor | None = None,
    device: torch.device | str | None = None,
) -> FeatureTokenizer:
    """Loads a tokenizer from `save_feature_tokenizer` and the model to which it refers.

    Args:
        folder: the prefix "fairseq2:" requires that fairseq2 runs the model.
        extractor: the model, if it is already loaded or `load_features` cannot read it.
        device: the device to load the model on.
    """
    spec, folder = str(folder), Path(str(folder).removeprefix(FAIRSEQ2_PREFIX))
    is_fairseq2 = spec.startswith(FAIRSEQ2_PREFIX)
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("model_type") != MODEL_TYPE:
        if is_fairseq2:
            raise ValueError(
                f"{spec} is a model without a codebook; train one with "
                f"recipes/train_semantic_codebook.py --model {spec} and pass its output folder."
            )
        raise ValueError(
            f"{folder} has no config.json of a {MODEL_TYPE}; pass a folder from "
            "save_feature_tokenizer."
        )
    if extractor is None:
        inside = folder / config["model"]
        extractor = load_features(
            inside if inside.is_dir() else config["model"],
            device=device,
            window_seconds=config.get("window_seconds", WINDOW_SECONDS),
        )
    elif device is not None:
        raise ValueError("Got a device for an already loaded model; move the model instead.")
    if is_fairseq2 and not isinstance(extractor, Fairseq2Features):
        raise ValueError(
            f"{spec} requires fairseq2, which does not run this tokenizer's model; pass {folder}."
        )
    return FeatureTokenizer(extractor, KMeansCodebook.load(folder / _CENTROIDS))
