"""A small text encoder that was distilled from a sentence embedding, and is not trained any more.

A stage attends to what it makes of each word piece and, before these, of the whole sentence. The
latter points where its teacher's embedding does, so that sentences of one meaning lie together,
even in words that no caption had. recipes/train_text_encoder.py trains it.

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
        vocab_size: that of its tokenizer.
        embedding_dim: of the word pieces, narrow since there are many of them.
        sentence_dim: E, that of its teacher.
        max_length: longer texts are cut to this many tokens, with a warning.
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
                "A sentence model reads in both directions and attends to nothing else; "
                "set causal=False and cross_attention=False."
            )
        for name in ("vocab_size", "embedding_dim", "sentence_dim", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use at least 1.")


class SentenceModel(nn.Module):
    """What each word piece adds to the embedding of its sentence."""

    def __init__(self, config: SentenceModelConfig) -> None:
        super().__init__()
        dim = config.transformer.dim
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.widen = nn.Linear(config.embedding_dim, dim, bias=False)
        self.transformer = Transformer(config.transformer)
        self.head = nn.Linear(dim, config.sentence_dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Reads tokens [B, L], False in mask [B, L] on padding; returns [B, L, E]."""
        return self.head(self.transformer(self.widen(self.embedding(tokens)), mask=mask))


def sentence_embeddings(words: Tensor, mask: Tensor) -> Tensor:
    """The direction of the mean of words [B, L, E], without padding: [B, E] of length 1."""
    return F.normalize((words.float() * mask[..., None]).sum(dim=1), dim=-1)


class SentenceEncoder:
    """A sentence model that is not trained: conditioners share it and save it apart from them.

    Texts are encoded one at a time, so that no text changes another.
    """

    def __init__(self, model: SentenceModel, tokenizer: SentencePieceTokenizer) -> None:
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"The text tokenizer has {tokenizer.vocab_size} tokens and the encoder "
                f"{model.config.vocab_size}; give the tokenizer that it was made for."
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = model.config.max_length

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> "SentenceEncoder":
        """Reads what `save` wrote, in float32."""
        folder = Path(folder)
        path = folder / _WEIGHTS
        config = read_config(folder, SentenceModelConfig, model_type=MODEL_TYPE)
        if not path.is_file():
            raise ValueError(f"{path} is missing; give the whole folder of a text encoder.")
        weights = read_safetensors(path)
        if config.transformer.num_layers > len(weights):  # or building them could take for ever
            raise ValueError(
                f"{path} lacks layers of {config.transformer.num_layers}; fetch it again."
            )
        with unfilled():
            model = SentenceModel(config)
        check_weights(weights, model.state_dict(), source=path)
        here = {name: weight.to(device, torch.float32) for name, weight in weights.items()}
        model.load_state_dict(here, assign=True)
        return cls(model, SentencePieceTokenizer.load(folder / _TOKENIZER))

    def save(self, folder: str | Path) -> None:
        """Writes model and tokenizer, as float16 where that is exact, whole or not at all."""
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
        """Names the settings, weights and tokenizer; equal identities give equal embeddings."""
        settings = f"{self.model.config}{self.tokenizer.identity}"
        return f"sentence-{hash_model(settings, self.model.state_dict())}"

    def to(self, device: torch.device | str) -> "SentenceEncoder":
        """Moves the model, and returns this encoder."""
        self.model.to(device)
        return self

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Embeds each text: [1 + L, E], the whole sentence and then its word pieces."""
        return [self._encode(text) for text in texts]

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Embeds whole sentences alone, in one batch: [B, E] of length 1. Long texts are cut."""
        device = self.model.head.weight.device
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            read = self.tokenizer.encode(texts, max_length=self.max_length)
            mask = read.mask.to(device)
            return sentence_embeddings(self.model(read.tokens.to(device), mask), mask)

    def _encode(self, text: str) -> Tensor:
        device = self.model.head.weight.device
        # What is kept serves later calls in any mode: training takes no inference tensors, and
        # autocast would let a text depend on who asked first.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            read = tokens_of([text], self.tokenizer, self.max_length)
            mask = read.mask.to(device)
            words = self.model(read.tokens.to(device), mask)  # [1, L, E]
            sentence = sentence_embeddings(words, mask) * math.sqrt(self.dim)  # as large as words
            return torch.cat([sentence, words[0]])
