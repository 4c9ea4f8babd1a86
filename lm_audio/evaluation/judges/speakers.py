"""Speaker embeddings: x-vectors of transformers, and resemblyzer.

Shapes: N samples, n windows, D width.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.evaluation.judges.embedding import AudioEmbedding
from lm_audio.evaluation.judges.pretrained import load_feature_extractor, load_pretrained

RESEMBLYZER = "resemblyzer"


def load_speaker_embedding(source: str | Path, *, device: str = "cpu") -> AudioEmbedding:
    """Loads "resemblyzer" by name, or an x-vector model of transformers by folder or hub id."""
    if str(source) == RESEMBLYZER:
        return Resemblyzer(device=device)
    return XVectors(source, device=device)


class XVectors:
    """An `AudioEmbedding` of one vector a clip: WavLM or wav2vec 2 with an x-vector head."""

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        from transformers import AutoModelForAudioXVector

        self._model = load_pretrained(AutoModelForAudioXVector, source, device=device)
        self._extractor = load_feature_extractor(source)
        self.sample_rate: int = self._extractor.sampling_rate
        self.name = f"{source} (transformers {type(self._model).__name__})"

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> Tensor:
        inputs = self._extractor(
            [row.cpu().numpy() for row in samples],
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        ).to(self._model.device)
        vectors: Tensor = self._model(**inputs).embeddings
        return F.normalize(vectors.float(), dim=-1).cpu()


class Resemblyzer:
    """The d-vectors of resemblyzer, with its preprocessing: one vector per clip."""

    sample_rate = 16_000
    name = RESEMBLYZER

    def __init__(self, *, device: str = "cpu") -> None:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ModuleNotFoundError as error:
            raise ValueError(
                "The package resemblyzer is missing. Install it with: pip install resemblyzer, "
                "or give an x-vector model of transformers."
            ) from error
        self._prepare: Any = preprocess_wav
        self._encoder: Any = VoiceEncoder(device, verbose=False)

    def __call__(self, samples: Tensor) -> Tensor:
        rows = [self._prepare(row.cpu().numpy(), self.sample_rate) for row in samples]
        vectors = [torch.from_numpy(self._encoder.embed_utterance(row)) for row in rows]
        return torch.stack(vectors)
