"""The conditioners of AudioLDM: text through CLAP, T5 and, for speech, VITS.

Each text is encoded by itself and without padding, so that it does not depend on others. A text
that is missing or dropped is the empty text, as in training.

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.resampling import resample
from audio_tokenizers.text import T5TextTokenizer
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.joint_spaces import SoundSpace
from lm_audio.conditioners.pretrained_text import checked_text, token_ids
from lm_audio.conditioners.text import T5Encoder
from lm_audio.networks.condition import Condition, stack

Release = Callable[[], None]


class ClapText:
    """CLAP's text encoder: a vector of length 1.

    Args:
        model: a ClapModel or ClapTextModelWithProjection of transformers.
        release: called after use, to give memory back.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_length: int, release: Release = lambda: None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.release = release

    @property
    def dim(self) -> int:
        return int(self.model.config.projection_dim)

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Embeds a text: [1, D]."""
        tokens = token_ids(self.tokenizer, text, self.max_length)
        tokens = tokens.to(self.model.device)
        if hasattr(self.model, "get_text_features"):
            found = self.model.get_text_features(tokens, attention_mask=torch.ones_like(tokens))
            # transformers 5 returns all outputs of the encoder, 4 the projection alone
            vector = found if isinstance(found, Tensor) else found.pooler_output
        else:
            vector = self.model(tokens, attention_mask=torch.ones_like(tokens)).text_embeds
        self.release()
        return F.normalize(vector.float(), dim=-1)


class MappedT5(T5Encoder):
    """A T5 whose weights occupy memory only while it reads a text."""

    def __init__(
        self, model: Any, tokenizer: T5TextTokenizer, *, max_length: int, release: Release
    ) -> None:
        super().__init__(model, tokenizer, max_length=max_length)
        self._release = release

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        made = super().encode(texts)
        self._release()
        return made


class Speech:
    """The text encoder of a VITS: embeddings of phonemes, padded to a fixed length.

    The projection's positions and GPT-2's count the padding, so it is part of the model.
    """

    end_id = 182  # written over the first token 0, which is the padding's

    def __init__(self, model: Any, tokenizer: Any, *, length: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.length = length

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        found: torch.device = next(self.model.parameters()).device
        return found

    @torch.no_grad()
    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Embeds a transcription: [L, D] and the mask [L], False on padding."""
        try:
            tokens = token_ids(self.tokenizer, text, self.length)[0]
        except ImportError as error:
            raise ValueError(
                "This model reads phonemes, which needs the package phonemizer and espeak-ng. "
                "Install them: pip install phonemizer."
            ) from error
        ids = torch.full((1, self.length), self.tokenizer.pad_token_id)
        ids[0, : len(tokens)] = tokens
        mask = torch.arange(self.length) < len(tokens)
        if len(free := (ids[0] == 0).nonzero()):
            ids[0, free[0]] = self.end_id
            mask[free[0]] = True
        whole = mask[None].to(self.device, torch.int64)
        found = self.model(ids.to(self.device), attention_mask=whole, padding_mask=whole[..., None])
        return found[0][0].float(), mask.to(self.device)


class Text(nn.Module):
    """Texts for AudioLDM 2: the first entry is CLAP's vector, the others T5's, all padded to `dim`.

    Both are in one condition because both read the same prompt.
    """

    def __init__(self, clap: ClapText, t5: T5Encoder) -> None:
        super().__init__()
        self.clap, self.t5 = clap, t5
        self.dim = max(clap.dim, t5.dim)
        self.null = Null("none", self.dim)

    def forward(self, values: Sequence[str | None]) -> Condition:
        """Embeds B texts; None is the empty text."""
        rows = []
        for value in values:
            text = checked_text(value)
            parts = [self.clap.encode(text), *self.t5.encode([text])]
            rows.append(torch.cat([F.pad(x, (0, self.dim - x.shape[1])) for x in parts]))
        return stack(rows)

    def split(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """CLAP's vector [1, D] and T5's [L, D] of a text's embedding."""
        return row[:1, : self.clap.dim], row[1:, : self.t5.dim]


class Description(nn.Module):
    """Texts through CLAP alone."""

    def __init__(self, clap: ClapText) -> None:
        super().__init__()
        self.clap = clap
        self.dim = clap.dim
        self.null = Null("none", self.dim)

    def forward(self, values: Sequence[str | None]) -> Condition:
        """Embeds B texts; None is the empty text."""
        return stack([self.clap.encode(checked_text(value)) for value in values])


class Transcription(nn.Module):
    """Words to speak; None is silence: a single vector of zeros."""

    def __init__(self, speech: Speech) -> None:
        super().__init__()
        self.speech = speech
        self.dim = speech.dim
        self.null = Null("zero", self.dim)

    def forward(self, values: Sequence[str | None]) -> Condition:
        rows, masks = [], []
        for value in values:
            row, mask = (
                self.speech.encode(checked_text(value)) if value is not None else self.silence
            )
            rows.append(row)
            masks.append(mask)
        return Condition(embeddings=torch.stack(rows), mask=torch.stack(masks))

    @property
    def silence(self) -> tuple[Tensor, Tensor]:
        device = self.speech.device
        mask = torch.zeros(self.speech.length, dtype=torch.bool, device=device)
        return torch.zeros(self.speech.length, self.dim, device=device), mask


class Vectors(nn.Module):
    """Vectors [D, L] of an earlier stage, as they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.null = Null("zero", dim)

    def forward(self, values: Sequence[Tensor | None]) -> Condition:
        return stack([self.null.embedding if x is None else x.T.float() for x in values])


@dataclass(frozen=True, eq=False)
class ClapScorer:
    """The similarity of sound and text by CLAP, from -1 to 1; the mean over windows of 10 s."""

    clap: ClapText
    extractor: Any

    @torch.inference_mode()
    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        """How well samples [C, N] fit a text."""
        space = SoundSpace(self.clap.model, self.extractor, self.clap.tokenizer)
        mono = samples.float().cpu().mean(dim=0, keepdim=True)
        sound = space(resample(mono, sample_rate, space.sample_rate)).mean(dim=0)
        return float(sound @ self.clap.encode(text)[0].cpu())
