"""Whose voice it is: closeness of embeddings, and the nearest of enrolled speakers.

AudioLM (arXiv 2209.03143, table III) asks a classifier of its own which speaker a continuation has;
here the classes are the means of embeddings of real clips of each speaker.

Shapes: N samples, n windows, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.evaluation.embedding import AudioEmbedding
from lm_audio.evaluation.pretrained import load_feature_extractor, load_pretrained

RESEMBLYZER = "resemblyzer"


def speaker_similarity(first: Tensor, second: Tensor) -> Tensor:
    """The cosines of pairs of embeddings [n, D]: [n]."""
    return F.cosine_similarity(first.double(), second.double(), dim=-1)


def nearest_speakers(
    embeddings: Tensor,
    enrolled: Tensor,
    enrolled_speakers: Sequence[str],
    *,
    own: Sequence[int | None] | None = None,
) -> list[str]:
    """The speaker of the nearest centroid by cosine, for embeddings [n, D].

    Args:
        enrolled: embeddings [m, D] of real clips, each brought to length 1 before the mean.
        own: for each embedding the real clip that it was made from, which is left out of its
            centroid, unless it is all that there is of a speaker.
    """
    names = sorted(set(enrolled_speakers))
    vectors = F.normalize(enrolled.double(), dim=-1)
    owner = torch.tensor([names.index(name) for name in enrolled_speakers])
    sums = torch.stack([vectors[owner == i].sum(dim=0) for i in range(len(names))])  # [names, D]
    counts = owner.bincount(minlength=len(names))
    answers = []
    for embedding, pair in zip(embeddings.double(), own or [None] * len(embeddings), strict=True):
        centroids = sums
        if pair is not None and counts[owner[pair]] > 1:
            centroids = sums.clone()
            centroids[owner[pair]] -= vectors[pair]
        closeness = F.normalize(centroids, dim=-1) @ F.normalize(embedding, dim=-1)
        answers.append(names[int(closeness.argmax())])
    return answers


def load_speaker_embedding(source: str | Path, *, device: str = "cpu") -> AudioEmbedding:
    """Loads one by name, "resemblyzer", or an x-vector model of transformers, folder or hub id."""
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
    """The d-vectors of resemblyzer, levels and pauses treated as it does: one vector a clip."""

    sample_rate = 16_000
    name = RESEMBLYZER

    def __init__(self, *, device: str = "cpu") -> None:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ModuleNotFoundError as error:
            raise ValueError(
                "The speaker embedding resemblyzer is not installed; run: pip install resemblyzer, "
                "or give an x-vector model of transformers."
            ) from error
        self._prepare: Any = preprocess_wav
        self._encoder: Any = VoiceEncoder(device, verbose=False)

    def __call__(self, samples: Tensor) -> Tensor:
        rows = [self._prepare(row.cpu().numpy(), self.sample_rate) for row in samples]
        vectors = [torch.from_numpy(self._encoder.embed_utterance(row)) for row in rows]
        return torch.stack(vectors)
