"""Loads public models through transformers, from a folder or by hub id, as data alone.

Shapes: B batch, N samples, W windows, D width, V labels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm_audio.evaluation.embedding import cut_windows

# Some public checkpoints of the wav2vec 2 family lack it: only training uses it.
_ONLY_FOR_TRAINING = "masked_spec_embed"


def load_pretrained(cls: Any, source: str | Path, *, device: str = "cpu") -> Any:
    """A model of a class of transformers, in float32, with all of its weights in safetensors."""
    try:
        model, info = cls.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:  # of the hub: no such id, or none that is valid
        raise ValueError(
            f"Found no model with safetensors at {source}; give a folder or a hub id that has one."
        ) from error
    lacking = [x for x in sorted(info["missing_keys"]) if not x.endswith(_ONLY_FOR_TRAINING)]
    if lacking:
        raise ValueError(
            f"{source} lacks weights of a {type(model).__name__}, such as {lacking[0]}; give a "
            "checkpoint that was trained for this."
        )
    return model.eval().to(device)


def load_feature_extractor(source: str | Path) -> Any:
    from transformers import AutoFeatureExtractor

    extractor: Any = AutoFeatureExtractor
    return extractor.from_pretrained(source)


class TransformersClassifier:
    """A model for audio classification, such as an Audio Spectrogram Transformer of AudioSet.

    Probabilities are the softmax of the logits, over windows of ten seconds.
    """

    def __init__(self, source: str | Path, *, device: str = "cpu", seconds: float = 10.0) -> None:
        from transformers import AutoModelForAudioClassification

        self._model = load_pretrained(AutoModelForAudioClassification, source, device=device)
        self._extractor = load_feature_extractor(source)
        self.sample_rate: int = self._extractor.sampling_rate
        self._length = round(seconds * self.sample_rate)
        self.labels = [name for _, name in sorted(self._model.config.id2label.items())]
        self.name = f"{source} (transformers {type(self._model).__name__}, softmax)"

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> Tensor:
        length = min(self._length, samples.shape[1])
        windows = cut_windows(samples, length=length, hop=length).flatten(0, 1)  # [B * W, length]
        inputs = self._extractor(
            [row.numpy() for row in windows.cpu()],
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        ).to(self._model.device)
        probabilities: Tensor = self._model(**inputs).logits.softmax(dim=-1)
        return probabilities
