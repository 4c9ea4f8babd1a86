"""Reads the language model settings of an audiocraft run, its `xp.cfg`.

Settings that are unknown, or that our model does not support, raise an error that names them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_audio.networks.token_lm import TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import Pattern, delayed, parallel
from lm_audio.sampling import Sampling, Unmasking
from lm_audio.saving.pickles import plain

_DESCRIPTION, _MELODY = "conditioners.description", "conditioners.self_wav"
# Settings of the chroma, and the only supported values of some.
_CHROMA = {
    "sample_rate", "n_chroma", "radix2_exp", "argmax", "nfft", "winlen", "winhop", "norm",
    "match_len_on_eval", "eval_wavs", "n_eval_wavs", "cache_path",
}  # fmt: skip
_CHROMA_FIXED = {"argmax": True, "nfft": None, "winlen": None, "winhop": None}
# The default of a setting and its only supported value.
_FIXED: dict[str, tuple[Any, Any]] = {
    "transformer_lm.norm_first": (False, True),
    "transformer_lm.activation": ("relu", "gelu"),
    "transformer_lm.norm": ("layer_norm", "layer_norm"),
    "transformer_lm.bias_proj": (True, False),
    "transformer_lm.layer_scale": (None, None),
    "transformer_lm.positional_embedding": ("sin", "sin"),
    "transformer_lm.positional_scale": (1, 1),
    "transformer_lm.max_period": (10_000, 10_000),
    "transformer_lm.xpos": (False, False),
    "transformer_lm.past_context": (None, None),
    "transformer_lm.qk_layer_norm": (False, False),
    "transformer_lm.qk_layer_norm_cross": (False, False),
    "transformer_lm.kv_repeat": (1, 1),
    "codebooks_pattern.delay.flatten_first": (0, 0),
    "codebooks_pattern.delay.empty_initial": (0, 0),
    "interleave_stereo_codebooks.per_timestep": (False, False),
    "fuser.cross_attention_pos_emb": (False, False),
    f"{_DESCRIPTION}.model": (None, "t5"),
    f"{_DESCRIPTION}.t5.finetune": (False, False),
    f"{_DESCRIPTION}.t5.normalize_text": (False, False),
}
_READ = {"dim", "num_heads", "num_layers", "hidden_scale", "n_q", "card", "bias_ff", "bias_attn"}
# Training settings and attention implementations, which do not matter here.
_WITHOUT_EFFECT = {
    "dropout", "attention_dropout", "emb_lr", "lr", "weight_decay", "weight_init", "depthwise_init",
    "zero_bias_init", "checkpointing", "custom", "memory_efficient", "attention_as_float32",
    "cross_attention", "two_step_cfg", "q_modeling",
}  # fmt: skip


# What only MAGNeT has; the first two are read, and audiocraft computes the last three on loading.
_MASKED = {
    "subcodes_context", "span_len", "compression_model_framerate", "segment_duration",
}  # fmt: skip
_STEPS = (20, 10)  # of the first codebook, and of each other one: audiocraft's defaults


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What MAGNeT has beyond MusicGen: see `MaskedStage`."""

    span: int
    reach: int | None


@dataclass(frozen=True, kw_only=True)
class Chroma:
    """What MusicGen Melody hears of a melody: see `MelodyConditioner`."""

    sample_rate: int
    window: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class AudiocraftSettings:
    """The settings that vary between supported models.

    Args:
        masking: of MAGNeT; None for MusicGen and AudioGen.
        chroma: of MusicGen Melody; None for the others.
        interleaved: whether the codebooks of two channels are interleaved.
        seconds: the duration of the training clips.
        codec: the hub id of the codec, if the settings name one.
    """

    model: TokenLMConfig
    pattern: Pattern
    interleaved: bool
    seconds: float
    sampling: Sampling | Unmasking
    masking: Masking | None
    chroma: Chroma | None
    t5_name: str
    codec: str | None


def read_settings(given: Any, *, source: Path) -> AudiocraftSettings:
    """Reads YAML text from a released file, or OmegaConf objects from a training run."""
    settings = _Settings(_parsed(given, source), source)
    masked = settings.get("lm_model") == "transformer_lm_magnet"
    _refuse_others(settings, masked=masked)
    pointer = re.fullmatch(r"//pretrained/(.+)", str(settings.get("compression_model_checkpoint")))
    chroma = _chroma(settings)
    return AudiocraftSettings(
        model=_model(settings, causal=not masked, cross_attention=chroma is None),
        pattern=_pattern(settings),
        interleaved=bool(settings.get("interleave_stereo_codebooks.use")),
        seconds=settings.number("dataset.segment_duration"),
        sampling=_unmasking(settings) if masked else _sampling(settings),
        masking=_masking(settings) if masked else None,
        chroma=chroma,
        t5_name=settings.need(f"{_DESCRIPTION}.t5.name"),
        codec=pointer[1] if pointer else None,
    )


class _Settings:
    """Nested settings by dotted names; resolves references, `${like.this}`."""

    def __init__(self, values: Mapping[str, Any], source: Path) -> None:
        self.values = values
        self.source = source

    def get(self, dotted: str, default: Any = None, *, hops: int = 8) -> Any:
        """A setting, or the default if it is null or missing; follows up to `hops` references."""
        value: Any = self.values
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
                value = self.get(match[1], hops=hops - 1) if hops else None
        return default if value is None else value

    def need(self, dotted: str) -> Any:
        if (value := self.get(dotted)) in (None, "???"):
            raise ValueError(
                f"{dotted} is missing in the settings of {self.source}. Expected the settings of "
                "MusicGen or AudioGen."
            )
        return value

    def number(self, dotted: str, default: float | None = None) -> Any:
        value = self.need(dotted) if default is None else self.get(dotted, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(dotted, value, "a number")
        return value

    def refuse(self, dotted: str, value: Any, expected: Any) -> ValueError:
        return ValueError(
            f"Unsupported setting {dotted}={value} in {self.source}. Expected {expected}."
        )


def _parsed(given: Any, source: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        settings = yaml.safe_load(given) if isinstance(given, str) else plain(given)
    except (yaml.YAMLError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"The xp.cfg in {source} contains no settings. Download the file again.")
    return settings


def _refuse_others(settings: _Settings, *, masked: bool) -> None:
    fixed: dict[str, tuple[Any, Any]] = {
        "lm_model": (None, "transformer_lm_magnet" if masked else "transformer_lm"),
        "transformer_lm.causal": (False, not masked),
        **_FIXED,
    }
    if masked:  # a model that predicts the frames themselves, not those after them
        fixed["codebooks_pattern.modeling"] = (None, "parallel")
        fixed["codebooks_pattern.parallel.empty_initial"] = (0, -1)
        fixed["generate.lm.span_arrangement"] = ("nonoverlap", "nonoverlap")
        fixed["generate.lm.span_scoring"] = ("max", "max")
    for dotted, (default, expected) in fixed.items():
        if (value := settings.get(dotted, default)) != expected:
            raise settings.refuse(dotted, value, expected)
    known = {name.rpartition(".")[2] for name in fixed if name.startswith("transformer_lm.")}
    known |= _READ | _WITHOUT_EFFECT | (_MASKED if masked else set())
    for name in settings.get("transformer_lm", {}):
        if name not in known:
            raise settings.refuse(
                f"transformer_lm.{name}", settings.get(f"transformer_lm.{name}"), "none"
            )
    _refuse_conditions(settings)


def _refuse_conditions(settings: _Settings) -> None:
    with_melody = settings.get(f"{_MELODY}.model") == "chroma_stem"
    expected = {"cross": ["description"], "prepend": [], "sum": [], "input_interpolate": []}
    known = {"args", "description"}
    if with_melody:
        expected |= {"cross": [], "prepend": ["self_wav", "description"]}
        known |= {"self_wav"}
        for name, value in settings.get(f"{_MELODY}.chroma_stem", {}).items():
            fixed = _CHROMA_FIXED.get(name, value)
            if name not in _CHROMA or value != fixed:
                raise settings.refuse(f"{_MELODY}.chroma_stem.{name}", value, fixed)
        if not settings.get(f"{_MELODY}.chroma_stem.argmax", False):
            raise settings.refuse(f"{_MELODY}.chroma_stem.argmax", False, True)
    for name in settings.get("conditioners", {}):
        if name not in known:
            raise settings.refuse("conditioners", name, "description, and chroma of self_wav")
    for way, names in expected.items():
        if (value := settings.get(f"fuser.{way}", [])) != names:
            raise settings.refuse(f"fuser.{way}", value, names)


def _chroma(settings: _Settings) -> Chroma | None:
    if settings.get(f"{_MELODY}.model") is None:
        return None
    given = f"{_MELODY}.chroma_stem"
    return Chroma(
        sample_rate=settings.number(f"{given}.sample_rate"),
        window=2 ** settings.number(f"{given}.radix2_exp"),
        num_classes=settings.number(f"{given}.n_chroma"),
    )


def _sampling(settings: _Settings) -> Sampling:
    return Sampling(guidance_scale=settings.number("classifier_free_guidance.inference_coef", 3.0))


def _unmasking(settings: _Settings) -> Unmasking:
    """The authors' settings for this checkpoint; by default those of audiocraft's API."""

    def number(name: str, default: float) -> Any:
        return settings.number(f"generate.lm.{name}", default)

    K, (first, other) = settings.number("transformer_lm.n_q"), _STEPS
    steps = settings.get("generate.lm.decoding_steps", [first, *[other] * (K - 1)])
    if not isinstance(steps, list) or len(steps) != K:
        raise settings.refuse("generate.lm.decoding_steps", steps, f"{K} of them")
    return Unmasking(
        steps=tuple(steps),
        temperature=number("temp", 3.0) if settings.get("generate.lm.use_sampling", True) else 0.0,
        anneal_temperature=bool(settings.get("generate.lm.anneal_temp", True)),
        top_k=0 if number("top_p", 0.9) else int(number("top_k", 0)),  # top-p takes precedence
        top_p=number("top_p", 0.9),
        guidance_scale=number("max_cfg_coef", 10.0),
        final_guidance_scale=number("min_cfg_coef", 1.0),
    )


def _masking(settings: _Settings) -> Masking:
    reach = settings.number("transformer_lm.subcodes_context", 5)
    span = settings.number("masking.span_len", 3)
    return Masking(span=max(1, span), reach=None if reach < 0 else reach)


def _model(settings: _Settings, *, causal: bool, cross_attention: bool) -> TokenLMConfig:
    bias = settings.get("transformer_lm.bias_attn", True)
    if (bias_ff := settings.get("transformer_lm.bias_ff", True)) != bias:
        raise settings.refuse("transformer_lm.bias_ff", bias_ff, f"{bias}, as bias_attn")
    dim = settings.number("transformer_lm.dim")
    transformer = TransformerConfig(
        dim=dim,
        num_layers=settings.number("transformer_lm.num_layers"),
        num_heads=settings.number("transformer_lm.num_heads"),
        hidden_dim=int(settings.number("transformer_lm.hidden_scale", 4) * dim),
        positions="sinusoidal",
        norm="layer",
        activation="gelu",
        cross_attention=cross_attention,
        causal=causal,
        bias=bias,
    )
    return TokenLMConfig(
        transformer=transformer,
        num_streams=settings.number("transformer_lm.n_q"),
        vocab_size=settings.number("transformer_lm.card"),
    )


def _pattern(settings: _Settings) -> Pattern:
    K = settings.number("transformer_lm.n_q")
    kind = settings.get("codebooks_pattern.modeling")
    kind = kind or settings.get("transformer_lm.q_modeling")  # its name in early runs
    if kind == "parallel":
        return parallel(K)
    if kind != "delay":
        raise settings.refuse("codebooks_pattern.modeling", kind, "delay or parallel")
    delays = settings.get("codebooks_pattern.delay.delays", list(range(K)))
    if not isinstance(delays, list) or len(delays) != K:
        raise settings.refuse("codebooks_pattern.delay.delays", delays, f"{K} of them")
    return delayed(delays)
