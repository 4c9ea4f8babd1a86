"""The parts of a MusicGen checkpoint, and the conversion of its weights.

MusicGen (arXiv 2306.05284) and AudioGen (arXiv 2209.15352, as published since) are one transformer
over EnCodec codebooks in the delay pattern, with cross-attention to T5 text embeddings. MusicGen
Melody has the chroma of a recording and the text as a prefix instead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from audio_tokenizers.protocol import AcousticTokenizer
from audio_tokenizers.weights import check_weights, unfilled
from lm_audio.conditioners.condition import NullKind
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.conditioners.text import T5Encoder, TextConditioner
from lm_audio.families.audiocraft.settings import Masking
from lm_audio.networks.packing import Kind, fill
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.patterns import Pattern
from lm_audio.sampling import Sampling, Unmasking

Layout = Literal["lm-audio", "transformers", "audiocraft"]
State = dict[str, Tensor]

_QKV = ("q_proj", "k_proj", "v_proj")
# Module names in a block: ours, transformers', audiocraft's; several in a cell are stacked.
_BLOCK_MODULES = (
    (("attention_norm",), ("self_attn_layer_norm",), ("norm1",)),
    (("attention.input",), tuple(f"self_attn.{x}" for x in _QKV), ("self_attn.in_proj",)),
    (("attention.output",), ("self_attn.out_proj",), ("self_attn.out_proj",)),
    (("cross_attention_norm",), ("encoder_attn_layer_norm",), ("norm_cross",)),
    (
        ("cross_attention.query", "cross_attention.key_value"),
        tuple(f"encoder_attn.{x}" for x in _QKV),
        ("cross_attention.in_proj",),
    ),
    (("cross_attention.output",), ("encoder_attn.out_proj",), ("cross_attention.out_proj",)),
    (("feed_forward_norm",), ("final_layer_norm",), ("norm2",)),
    (("feed_forward.input",), ("fc1",), ("linear1",)),
    (("feed_forward.output",), ("fc2",), ("linear2",)),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MusicGenParts:
    """The contents of a checkpoint, independent of its layout.

    Args:
        text: conditions the model on `T5Encoder` embeddings, by cross-attention or, with a melody,
            as a prefix.
        melody: of MusicGen Melody, before the text in the prefix.
        num_channels: 2 with a mono codec means interleaved codebooks, L0 R0 L1 R1 and so on.
        max_frames: the context length that the model was trained with.
        masking: of MAGNeT, whose pattern is parallel; None for the others.
        t5_name: the public T5 that `text` uses, if the checkpoint names it.
        licence: of the weights, if the checkpoint states it.
    """

    model: TokenLM
    pattern: Pattern
    text: TextConditioner
    melody: MelodyConditioner | None = None
    codec: AcousticTokenizer
    num_channels: int
    max_frames: int
    sampling: Sampling | Unmasking
    masking: Masking | None = None
    t5_name: str | None = None
    licence: str | None = None

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(self.codec.sample_rate, self.codec.hop_length)

    @property
    def conditioners(self) -> Conditioners:
        if self.melody is None:
            return Conditioners({"text": self.text}, {"text": "cross"})
        return Conditioners(
            {"melody": self.melody, "text": self.text}, {"melody": "prepend", "text": "prepend"}
        )

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "MusicGenParts":
        """Moves the model, and the T5 and the codec in float32, in place."""
        self.model.to(device=device, dtype=dtype)
        self.text.to(device=device, dtype=dtype)
        if self.melody is not None:
            self.melody.to(device=device, dtype=dtype)
        if isinstance(self.text.encoder, T5Encoder):
            self.text.encoder.to(device)
        self.codec.to(str(device))
        return self

    def check(self, *, source: object) -> None:
        """Raises ValueError unless the codec matches the tokens of the model."""
        codec, config = self.codec, self.model.config
        sets = self.num_channels // codec.num_channels
        if config.num_streams > sets * codec.num_codebooks or config.num_streams % sets:
            raise ValueError(
                f"{source}: the model has {config.num_streams} codebooks for {self.num_channels} "
                f"channels, but the codec has {codec.num_codebooks} for {codec.num_channels}. Use "
                "the codec that the model was trained with."
            )
        if config.vocab_size != codec.codebook_size:
            raise ValueError(
                f"{source}: the model has {config.vocab_size} tokens, but a codebook of the codec "
                f"has {codec.codebook_size}. Use the codec that the model was trained with."
            )


def build_model(
    state: State,
    *,
    config: TokenLMConfig,
    encoder: T5Encoder,
    project: bool,
    layout: Layout,
    source: Path,
    settings: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packing: Kind | None = None,
    melody: MelodyConditioner | None = None,
) -> tuple[TokenLM, TextConditioner]:
    """Builds the model and its text conditioner from these weights and empties `state`.

    Args:
        melody: gets its weights, too.
        project: whether the width of the T5 is projected to that of the model.
        settings: the source of the shapes, for error messages.
        device, dtype, packing: of the model.
    """
    with unfilled():
        model = TokenLM(config)
    null: NullKind = "zero" if melody is None else "zeros"
    text = TextConditioner(encoder, config.transformer.dim, project=project, null=null)
    rows = {name: len(weight) for name, weight in _state(model, text, melody).items()}
    expected = convert_weights(_state(model, text, melody), config, "lm-audio", layout)
    check_weights(state, expected, source=source, settings=settings)
    whole = nn.ModuleDict({"model": model, "projection": text.projection})
    if melody is not None:
        whole["melody"] = melody.projection.requires_grad_(False)
    weights = converted(state, config, layout, "lm-audio", rows=rows)
    others = tuple(f"{name}." for name in whole if name != "model")
    named = ((x if x.startswith(others) else f"model.{x}", w) for x, w in weights)
    fill(whole, named, device=device, dtype=dtype, packing=packing)
    return model.requires_grad_(False).eval(), text.requires_grad_(False).eval()


def weights_of(parts: MusicGenParts, layout: Layout) -> State:
    """The weights of the model and its projection under a layout's names, on the CPU."""
    own = _state(parts.model, parts.text, parts.melody)
    state = {name: x.cpu() for name, x in own.items()}
    return convert_weights(state, parts.model.config, "lm-audio", layout)


def _state(model: TokenLM, text: TextConditioner, melody: MelodyConditioner | None) -> State:
    projections = {"projection": text.projection}
    if melody is not None:
        projections["melody"] = melody.projection
    others = {
        f"{name}.{own}": x
        for name, module in projections.items()
        for own, x in module.state_dict().items()
    }
    return {**model.state_dict(), **others}


def convert_weights(
    state: State,
    config: TokenLMConfig,
    found: Layout,
    wanted: Layout,
    *,
    rows: Mapping[str, int] | None = None,
) -> State:
    """Removes the weights of a model from `state` and renames them from one layout to another.

    Args:
        rows: the number of rows of each weight; by default stacks are split evenly.
    """
    return dict(converted(state, config, found, wanted, rows=rows))


def converted(
    state: State,
    config: TokenLMConfig,
    found: Layout,
    wanted: Layout,
    *,
    rows: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """As `convert_weights`, yielding one weight at a time."""
    for group in _groups(config):
        for kind in ("weight", "bias"):
            old, new = ([_named(x, kind) for x in group[layout]] for layout in (found, wanted))
            if old[0] not in state:  # a layer without a bias, or no projection
                continue
            found_weights = [state.pop(name) for name in old]
            stack = found_weights[0] if len(old) == 1 else torch.cat(found_weights)
            parts = stack.chunk(len(new)) if rows is None else stack.split([rows[x] for x in new])
            yield from zip(new, parts, strict=True)


def _groups(config: TokenLMConfig) -> Iterator[dict[Layout, tuple[str, ...]]]:
    """Corresponding modules by their names in each layout."""
    each = range(config.num_streams)
    decoder = "decoder.model.decoder"
    yield {
        "lm-audio": ("embedding",),
        "transformers": tuple(f"{decoder}.embed_tokens.{k}" for k in each),
        "audiocraft": tuple(f"emb.{k}" for k in each),
    }
    for i in range(config.transformer.num_layers):
        for ours, transformers, audiocraft in _BLOCK_MODULES:
            yield {
                "lm-audio": tuple(f"transformer.blocks.{i}.{name}" for name in ours),
                "transformers": tuple(f"{decoder}.layers.{i}.{name}" for name in transformers),
                "audiocraft": tuple(f"transformer.layers.{i}.{name}" for name in audiocraft),
            }
    yield {
        "lm-audio": ("transformer.norm",),
        "transformers": (f"{decoder}.layer_norm",),
        "audiocraft": ("out_norm",),
    }
    yield {
        "lm-audio": ("heads",),
        "transformers": tuple(f"decoder.lm_heads.{k}" for k in each),
        "audiocraft": tuple(f"linears.{k}" for k in each),
    }
    yield {
        "lm-audio": ("projection",),
        "transformers": ("enc_to_dec_proj",),
        "audiocraft": ("condition_provider.conditioners.description.output_proj",),
    }
    yield {
        "lm-audio": ("melody",),
        "transformers": ("audio_enc_to_dec_proj",),
        "audiocraft": ("condition_provider.conditioners.self_wav.output_proj",),
    }


def _named(module: str, kind: str) -> str:
    separator = "_" if module.endswith("in_proj") else "."  # as in torch's MultiheadAttention
    return f"{module}{separator}{kind}"
