"""CLAP: joint embeddings of audio and text (arXiv 2211.06687), through transformers.

Shapes: B batch, N samples, n windows, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.resampling import resample
from lm_audio.evaluation.judges.pretrained import load_feature_extractor, load_pretrained

_SHORTEST_REST = 1.0  # seconds; a shorter rest of a long clip is ignored


class Clap:
    """Embeds audio, as an `AudioEmbedding`, and text; all vectors have length 1.

    Long clips are split into windows of ten seconds; transformers would pick a random one.
    """

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, ClapModel

        self._model = load_pretrained(ClapModel, source, device=device)
        self._extractor = load_feature_extractor(source)
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self.sample_rate: int = self._extractor.sampling_rate
        self.name = f"{source} (transformers ClapModel)"

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> Tensor:
        """The vectors [n, D] of samples [B, N]."""
        rest = round(_SHORTEST_REST * self.sample_rate)
        pieces = [
            piece.cpu().numpy()
            for row in samples
            for start, piece in enumerate(row.split(self._extractor.nb_max_samples))
            if start == 0 or len(piece) >= rest
        ]
        inputs = self._extractor(pieces, sampling_rate=self.sample_rate, return_tensors="pt")
        # The extractor marks a random clip as longer than it is, if none is.
        inputs["is_longer"] = torch.zeros(len(pieces), 1, dtype=torch.bool)
        return self._normalised(self._model.get_audio_features(**inputs.to(self._model.device)))

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        """The cosine between samples [C, N] and a text, the mean over windows."""
        mono = resample(samples.mean(dim=0, keepdim=True), sample_rate, self.sample_rate)
        return float((self(mono) @ self.embed_texts([text]).T).mean())

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors [B, D] of texts."""
        # The tokenizers of public checkpoints state no limit (10 ** 30), but RoBERTa has one.
        limit = self._model.config.text_config.max_position_embeddings - 2
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        placed = {name: x.to(self._model.device) for name, x in given.items()}
        return self._normalised(self._model.get_text_features(**placed))

    def _normalised(self, output: Any) -> Tensor:
        # transformers 5 returns all outputs of the encoder, 4 the projection alone
        vectors = output if isinstance(output, Tensor) else output.pooler_output
        return F.normalize(vectors.float(), dim=-1).cpu()
