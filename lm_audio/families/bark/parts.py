"""The parts of a Bark checkpoint, and the conversion of its weights.

Bark (github.com/suno-ai/bark) speaks a text in three stages after AudioLM (arXiv 2209.03143): text
to semantic tokens, to two coarse codebooks, to eight codebooks of EnCodec at 24 kHz.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audio_tokenizers.protocol import AcousticTokenizer
from audio_tokenizers.weights import check_weights, unfilled
from lm_audio.families.bark.fine_model import FineModel, FineModelConfig
from lm_audio.families.bark.voices import BarkVoices
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Sampling
from lm_audio.saving.text_models import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Our names, transformers' and the original's.
_MODULES = (
    ("embedding", "input_embeds_layer", "transformer.wte"),
    ("transformer.positions", "position_embeds_layer", "transformer.wpe"),
    ("transformer.norm", "layernorm_final", "transformer.ln_f"),
    ("heads", "lm_head", "lm_head"),
)
_BLOCK_MODULES = (
    ("attention_norm", "layernorm_1", "ln_1"),
    ("attention.input", "attn.att_proj", "attn.c_attn"),
    ("attention.output", "attn.out_proj", "attn.c_proj"),
    ("feed_forward_norm", "layernorm_2", "ln_2"),
    ("feed_forward.input", "mlp.in_proj", "mlp.c_fc"),
    ("feed_forward.output", "mlp.out_proj", "mlp.c_proj"),
)
_SAMPLING = Sampling(temperature=0.7, top_k=0, guidance_scale=1.0)
_FINE_SAMPLING = replace(_SAMPLING, temperature=0.5)
_BLOCK = re.compile(r"(?:transformer\.h|layers)\.(\d+)\.(.+)")
_CODEBOOK = re.compile(r"(?:transformer\.wtes|input_embeds_layers)\.(\d+)\.weight")
_HEAD = re.compile(r"lm_heads\.(\d+)\.weight")


@dataclass(frozen=True, kw_only=True)
class BarkSettings:
    """The constants of Bark; the defaults are those of all published checkpoints.

    Args:
        text_offset: added to text tokens, which share an embedding table with semantic tokens.
        text_length: the number of text tokens, and of a voice's semantic tokens, before a clip.
        semantic_pad: the padding token of the semantic stage, which also ends a clip.
        semantic_length: the maximum number of semantic tokens.
        coarse_context, coarse_history: semantic and coarse tokens before a window.
        coarse_window: coarse tokens per window.
        fine_window, fine_hop: frames per window, and from one window to the next.
        semantic, coarse, fine: the default sampling of the stages.
    """

    codebook_size: int = 1024
    text_offset: int = 10_048
    text_pad: int = 129_595
    text_length: int = 256
    semantic_size: int = 10_000
    semantic_pad: int = 10_000
    semantic_start: int = 129_599
    semantic_length: int = 768
    semantic_rate: Fraction = Fraction(499, 10)
    coarse_pad: int = 12_048
    coarse_start: int = 12_050
    coarse_rate: int = 75
    coarse_codebooks: int = 2
    coarse_context: int = 256
    coarse_history: int = 630
    coarse_window: int = 60
    fine_codebooks: int = 8
    fine_window: int = 1024
    fine_hop: int = 512
    semantic: Sampling = _SAMPLING
    coarse: Sampling = _SAMPLING
    fine: Sampling = _FINE_SAMPLING

    @property
    def num_coarse_tokens(self) -> int:
        """The number of tokens of all coarse codebooks together."""
        return self.coarse_codebooks * self.codebook_size

    @property
    def coarse_per_semantic(self) -> float:
        """Coarse tokens per semantic token; a float, to round as in the training of the models."""
        return self.coarse_rate / float(self.semantic_rate) * self.coarse_codebooks

    @property
    def semantic_history(self) -> int:
        """The number of semantic tokens that cover the coarse history of a window."""
        return int(self.coarse_history / self.coarse_per_semantic)


@dataclass(frozen=True, kw_only=True, eq=False)
class BarkParts:
    """The models of Bark, its codec, its text tokenizer, its voices and its constants."""

    semantic: TokenLM
    coarse: TokenLM
    fine: FineModel
    codec: AcousticTokenizer
    text_tokenizer: "PreTrainedTokenizerBase"
    voices: BarkVoices
    settings: BarkSettings

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "BarkParts":
        """Moves the models, the codec in float32, in place."""
        for model in (self.semantic, self.coarse, self.fine):
            model.to(device=device, dtype=dtype)
        self.codec.to(str(device))
        return self

    def check(self, *, source: object) -> None:
        """Raises ValueError unless the models fit each other and their windows."""
        s = self.settings
        if (num_given := self.fine.config.num_given) > s.coarse_codebooks:
            raise ValueError(
                f"{source}: the fine model needs {num_given} codebooks and the coarse model "
                f"generates {s.coarse_codebooks}; set n_codes_given to at most that."
            )
        needed: dict[str, tuple[TokenLM | FineModel, int]] = {
            "semantic": (self.semantic, s.text_length + s.semantic_length),
            "coarse": (self.coarse, s.coarse_context + s.coarse_history + s.coarse_window),
            "fine": (self.fine, s.fine_window),
        }
        for name, (model, length) in needed.items():
            found = model.config.transformer.num_positions
            if found is not None and found < length:
                raise ValueError(
                    f"{source}: the {name} model has {found} positions, but its windows need "
                    f"{length}."
                )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of one of the three models, as both layouts state it."""

    dim: int
    num_layers: int
    num_heads: int
    num_positions: int
    bias: bool
    num_inputs: int
    vocab_size: int
    num_codebooks: int = 8
    num_given: int = 1

    def transformer(self, *, causal: bool) -> TransformerConfig:
        return TransformerConfig(
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=4 * self.dim,
            positions="learned",
            num_positions=self.num_positions,
            norm="layer",
            activation="gelu",
            causal=causal,
            bias=self.bias,
            norm_bias=self.bias or not causal,
        )


def build_semantic(state: Mapping[str, Tensor], shape: Shape, *, source: object) -> TokenLM:
    """Builds the semantic model from weights under either layout's names."""
    return _token_lm(renamed(state), shape, source=source)


def build_coarse(
    state: Mapping[str, Tensor], shape: Shape, *, settings: BarkSettings, source: object
) -> TokenLM:
    """Builds the coarse model from weights under either layout's names.

    The embeddings of acoustic tokens are moved before the semantic ones, so that acoustic tokens
    count from 0 as in flattened patterns.
    """
    weights = renamed(state)
    first = settings.semantic_size
    stop = first + settings.num_coarse_tokens
    for name in weights.keys() & {"embedding.weight", "heads.weight"}:
        rows = weights[name]
        weights[name] = torch.cat([rows[first:stop], rows[:first], rows[stop:]])
    return _token_lm(weights, shape, source=source)


def _token_lm(weights: Mapping[str, Tensor], shape: Shape, *, source: object) -> TokenLM:
    config = TokenLMConfig(
        transformer=shape.transformer(causal=True),
        num_streams=1,
        vocab_size=shape.vocab_size,
        num_inputs=shape.num_inputs,
    )
    with unfilled():
        model = TokenLM(config)
    return _filled(model, weights, source=source)


def build_fine_model(state: Mapping[str, Tensor], shape: Shape, *, source: object) -> FineModel:
    """Builds the fine model from weights under either layout's names."""
    if shape.num_inputs != shape.vocab_size:
        raise ValueError(
            f"{source}: the fine model has {shape.num_inputs} input and {shape.vocab_size} output "
            "tokens. Expected equal numbers, because its heads are tied to its embeddings."
        )
    config = FineModelConfig(
        transformer=shape.transformer(causal=False),
        num_codebooks=shape.num_codebooks,
        num_given=shape.num_given,
        vocab_size=shape.vocab_size,
    )
    with unfilled():
        model = FineModel(config)
    return _filled(model, _tied(renamed(state), shape, source=source), source=source)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names, without the saved causal masks."""
    return {_our_name(name): x for name, x in state.items() if not name.endswith(".attn.bias")}


def _our_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    names = _MODULES if block is None else _BLOCK_MODULES
    prefix = "" if block is None else f"transformer.blocks.{block[1]}."
    module, _, kind = (name if block is None else block[2]).rpartition(".")
    for ours, *others in names:
        if module in others:
            return f"{prefix}{ours}.{kind}"
    return name  # error messages show unknown names unchanged


def _tied(state: dict[str, Tensor], shape: Shape, *, source: object) -> dict[str, Tensor]:
    """Merges the embedding tables of the codebooks; the heads must be copies of them."""
    tables = {int(m[1]): state.pop(name) for name in [*state] if (m := _CODEBOOK.fullmatch(name))}
    for name in [*state]:
        if match := _HEAD.fullmatch(name):
            table = tables.get(int(match[1]) + 1)
            if table is None or not torch.equal(state.pop(name), table):
                raise ValueError(
                    f"{source}: {name} of the fine model differs from embedding "
                    f"{int(match[1]) + 1}. Expected tied weights."
                )
    if [*sorted(tables)] != [*range(shape.num_codebooks)]:
        raise ValueError(
            f"{source}: the fine model embeds {len(tables)} codebooks, but its settings specify "
            f"{shape.num_codebooks}."
        )
    if len({table.shape for table in tables.values()}) > 1:
        raise ValueError(f"{source}: the embeddings of the fine model differ in shape.")
    return state | {"embedding.weight": torch.cat([tables[k] for k in sorted(tables)])}


def _filled(model: Any, state: Mapping[str, Tensor], *, source: object) -> Any:
    check_weights(state, model.state_dict(), source=str(source), settings="its settings")
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def load_text_tokenizer(source: str | Path) -> "PreTrainedTokenizerBase":
    """Reads the text tokenizer from a folder or by its hub id."""
    try:
        return load_tokenizer(source)
    except ValueError as error:
        raise ValueError(
            f"Could not read a text tokenizer from {source}. Give a folder with the "
            "tokenizer.json of bert-base-multilingual-cased, or a hub id."
        ) from error


def voices_of(settings: BarkSettings, folder: Path, hub_id: str | None = None) -> BarkVoices:
    """The voices of a checkpoint, for a model of these settings."""
    return BarkVoices(
        folder,
        hub_id=hub_id,
        sizes=(settings.semantic_size, settings.codebook_size),
        num_codebooks=(settings.coarse_codebooks, settings.fine_codebooks),
    )
