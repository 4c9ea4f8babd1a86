"""A small frozen text encoder, distilled from a sentence embedding model.

A stage attends to the embedding of the sentence, followed by those of its word pieces. The sentence
embedding matches the teacher's, so that sentences of the same meaning are close, even with words
that no caption had. recipes/train_text_encoder.py trains it.

Shapes: B batch, L text tokens, E width of the teacher's embedding, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.atomic import replacing_folder
from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.identity import hash_model
from audio_tokenizers.text import SentencePieceTokenizer
from audio_tokenizers.weights import check_weights, fits_float16, read_safetensors, unfilled
from lm_audio.conditioners.text import tokens_of
from lm_audio.networks.transformer import Transformer, TransformerConfig

MODEL_TYPE = "lm-audio-sentence-encoder"
_WEIGHTS, _TOKENIZER = "model.safetensors", "text.model"


@dataclass(frozen=True, kw_only=True)
class SentenceModelConfig:
    """The shape of a sentence model.

    Args:
        vocab_size: of its tokenizer.
        embedding_dim: of the word pieces, small because there are many.
        sentence_dim: E, the teacher's width.
        max_length: longer texts are truncated to this many tokens, with a warning.
    """

    transformer: TransformerConfig
    vocab_size: int
    embedding_dim: int
    sentence_dim: int
    max_length: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.transformer, dict):  # as config.json has it
            object.__setattr__(self, "transformer", TransformerConfig(**self.transformer))
        if self.transformer.causal or self.transformer.cross_attention:
            raise ValueError(
                "A sentence model needs a transformer with causal=False and cross_attention=False."
            )
        for name in ("vocab_size", "embedding_dim", "sentence_dim", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


class SentenceModel(nn.Module):
    """Embeds word pieces; their mean gives the sentence embedding."""

    def __init__(self, config: SentenceModelConfig) -> None:
        super().__init__()
        dim = config.transformer.dim
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.widen = nn.Linear(config.embedding_dim, dim, bias=False)
        self.transformer = Transformer(config.transformer)
        self.head = nn.Linear(dim, config.sentence_dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embeds tokens [B, L], with mask [B, L] False on padding: [B, L, E]."""
        return self.head(self.transformer(self.widen(self.embedding(tokens)), mask=mask))


def sentence_embeddings(words: Tensor, mask: Tensor) -> Tensor:
    """The normalised mean of words [B, L, E], without padding: [B, E] of length 1."""
    return F.normalize((words.float() * mask[..., None]).sum(dim=1), dim=-1)


class SentenceEncoder:
    """A frozen sentence model, shared by conditioners and saved separately.

    Texts are encoded one at a time, so that they do not affect each other.
    """

    def __init__(self, model: SentenceModel, tokenizer: SentencePieceTokenizer) -> None:
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"The text tokenizer has {tokenizer.vocab_size} tokens, but the encoder has "
                f"{model.config.vocab_size}. Use the tokenizer that it was trained with."
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = model.config.max_length

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> "SentenceEncoder":
        """Reads an encoder that `save` wrote, in float32."""
        folder = Path(folder)
        path = folder / _WEIGHTS
        config = read_config(folder, SentenceModelConfig, model_type=MODEL_TYPE)
        if not path.is_file():
            raise ValueError(f"{path} is missing. Give the folder of a text encoder.")
        weights = read_safetensors(path)
        if config.transformer.num_layers > len(weights):  # building them could take forever
            raise ValueError(
                f"{path} has fewer than {config.transformer.num_layers} layers. Download it again."
            )
        with unfilled():
            model = SentenceModel(config)
        check_weights(weights, model.state_dict(), source=path)
        here = {name: weight.to(device, torch.float32) for name, weight in weights.items()}
        model.load_state_dict(here, assign=True)
        return cls(model, SentencePieceTokenizer.load(folder / _TOKENIZER))

    def save(self, folder: str | Path) -> None:
        """Writes model and tokenizer atomically, in float16 if that is exact."""
        weights = {name: x.cpu().contiguous() for name, x in self.model.state_dict().items()}
        if fits_float16(weights):
            weights = {name: weight.half() for name, weight in weights.items()}
        with replacing_folder(Path(folder)) as new:
            write_config(new, self.model.config, model_type=MODEL_TYPE)
            save_file(weights, new / _WEIGHTS)
            self.tokenizer.save(new / _TOKENIZER)

    @property
    def dim(self) -> int:
        return self.model.config.sentence_dim

    @property
    def identity(self) -> str:
        """Identifies settings, weights and tokenizer; equal identities give equal embeddings."""
        settings = f"{self.model.config}{self.tokenizer.identity}"
        return f"sentence-{hash_model(settings, self.model.state_dict())}"

    def to(self, device: torch.device | str) -> "SentenceEncoder":
        """Moves the model, and returns this encoder."""
        self.model.to(device)
        return self

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Embeds each text: [1 + L, E], the sentence and then its word pieces."""
        return [self._encode(text) for text in texts]

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Embeds sentences in one batch: [B, E] of length 1. Long texts are truncated."""
        device = self.model.head.weight.device
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            read = self.tokenizer.encode(texts, max_length=self.max_length)
            mask = read.mask.to(device)
            return sentence_embeddings(self.model(read.tokens.to(device), mask), mask)

    def _encode(self, text: str) -> Tensor:
        device = self.model.head.weight.device
        # Cached results serve later calls in any mode: training cannot use inference tensors, and
        # under autocast a result would depend on the first caller.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            read = tokens_of([text], self.tokenizer, self.max_length)
            mask = read.mask.to(device)
            words = self.model(read.tokens.to(device), mask)  # [1, L, E]
            sentence = sentence_embeddings(words, mask) * math.sqrt(self.dim)  # same scale as words
            return torch.cat([sentence, words[0]])
