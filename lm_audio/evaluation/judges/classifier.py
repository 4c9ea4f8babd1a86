"""Audio classifiers: the protocol, and models of transformers.

Shapes: B batch, N samples, W windows, V labels.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.judges.embedding import cut_windows
from lm_audio.evaluation.judges.pretrained import load_feature_extractor, load_pretrained


class AudioClassifier(Protocol):
    """Gives the probability of each of its labels."""

    @property
    def name(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def labels(self) -> Sequence[str]: ...

    def __call__(self, samples: Tensor) -> Tensor:
        """Probabilities [n, V] of the windows of samples [B, N]; each row sums to 1."""


def classify_clips(classifier: AudioClassifier, clips: Iterable[ClipFile]) -> Tensor:
    """The mean probabilities [B, V] over the windows of each clip."""
    return torch.stack(
        [
            classifier(clip.audio(classifier.sample_rate).samples).float().cpu().mean(dim=0)
            for clip in clips
        ]
    )


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
