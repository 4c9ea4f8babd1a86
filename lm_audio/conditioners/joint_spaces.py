"""Joint spaces of texts and pictures or sounds: CLIP and CLAP of transformers.

All vectors have length 1, and each item is embedded as if it were alone.

Shapes: B batch, F pictures, n windows, N samples, D width.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.conditioners.pictures import fit

_SHORTEST_REST = 1.0  # seconds; a shorter rest of a long clip is ignored


class Space(Protocol):
    """A joint space of texts and something else."""

    @property
    def dim(self) -> int: ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors [B, D], of length 1, on the CPU."""


class PictureSpace:
    """CLIP of transformers.

    Args:
        mean, deviation: of each colour, by which pictures are normalised.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        size: int,
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.size, self.mean, self.deviation = size, tuple(mean), tuple(deviation)

    @property
    def dim(self) -> int:
        return int(self.model.config.projection_dim)

    @torch.inference_mode()
    def embed_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """The vectors [F, D] of pictures [3, H, W]."""
        device = self.model.visual_projection.weight.device
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (self.mean, self.deviation))
        made = []
        for picture in pictures:  # one by one: a row must not depend on the others
            x = ((fit(picture, self.size) - mean) / deviation)[None].to(device)
            pooled = self.model.vision_model(pixel_values=x).pooler_output
            made.append(F.normalize(self.model.visual_projection(pooled).float(), dim=-1)[0].cpu())
        return torch.stack(made)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors [B, D] of texts; those too long for the encoder are cut."""
        most = self.model.config.text_config.max_position_embeddings
        device = self.model.text_projection.weight.device
        made = []
        for text in texts:
            tokens = self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
            pooled = self.model.text_model(input_ids=tokens.input_ids.to(device)).pooler_output
            made.append(F.normalize(self.model.text_projection(pooled).float(), dim=-1)[0].cpu())
        return torch.stack(made)


class SoundSpace:
    """CLAP (arXiv 2211.06687).

    Long clips are split into windows of ten seconds; transformers would pick a random one.
    """

    def __init__(self, model: Any, extractor: Any, tokenizer: Any) -> None:
        self.model, self._extractor, self._tokenizer = model.eval(), extractor, tokenizer
        self.sample_rate: int = extractor.sampling_rate

    @property
    def dim(self) -> int:
        return int(self.model.config.projection_dim)

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
        return self._normalised(self.model.get_audio_features(**inputs.to(self.model.device)))

    def embed_sound(self, samples: Tensor) -> Tensor:
        """The vector [D] of samples [1, N] at `sample_rate`, the mean over windows."""
        return F.normalize(self(samples).mean(dim=0), dim=-1)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors [B, D] of texts."""
        # The tokenizers of public checkpoints state no limit (10 ** 30), but RoBERTa has one.
        limit = self.model.config.text_config.max_position_embeddings - 2
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        placed = {name: x.to(self.model.device) for name, x in given.items()}
        return self._normalised(self.model.get_text_features(**placed))

    def _normalised(self, output: Any) -> Tensor:
        # transformers 5 returns all outputs of the encoder, 4 the projection alone
        vectors = output if isinstance(output, Tensor) else output.pooler_output
        return F.normalize(vectors.float(), dim=-1).cpu()
