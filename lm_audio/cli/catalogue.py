"""The verbs about models and clips: models, info."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from lm_audio.catalogue import DEFAULT, models, num_stage_parameters
from lm_audio.cli.arguments import Arg
from lm_audio.cli.coding import TOKENS
from lm_audio.cli.console import in_words
from lm_audio.cli.generate import ModelOptions
from lm_audio.cli.inputs import sound
from lm_audio.families.family import ModelInfo
from lm_audio.pretrained import DEFAULT_FOLDER

if TYPE_CHECKING:
    from lm_audio.generation.track import Stage
    from lm_audio.pipeline import AudioPipeline
    from lm_audio.signals import Signal

OWN_FORMAT = "lm-audio"
Line = tuple[str, str]
Lines = Iterator[Line]


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that can be loaded by name."""

    EXAMPLES: ClassVar = ("lm-audio models", "lm-audio models | grep stereo")

    def run(self) -> None:
        titles = ("name", "source", "parameters", "size", "output", "features", "licence")
        rows = [titles, *(_row(model) for model in models())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show details of a model, an audio file or a token file."""

    EXAMPLES: ClassVar = (
        "lm-audio info",
        "lm-audio info dog.wav",
        "lm-audio info dog.safetensors",
        "lm-audio info musicgen-small",
        "lm-audio info runs/model",
        "lm-audio info piano.ts",
    )

    model: Annotated[str, Arg("MODEL|FILE", positional=True)] = DEFAULT
    """Folder, name from `lm-audio models`, Hugging Face repo ID, RAVE model, audio file, or
    token file (default: the bundled model)."""
    text_encoder: Annotated[str | None, Arg("MODEL")] = None
    """Folder or Hugging Face repo ID of the text encoder, for checkpoints that do not include
    one."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import SUFFIXES

        path = Path(self.model)
        if not path.exists() and path.suffix.lower() in SUFFIXES:
            raise ValueError(f"No such file: {path}")
        if not path.exists() and path.suffix == TOKENS:
            raise ValueError(f"No such file: {path}")
        of_file = _of_tokens if path.suffix == TOKENS else _of_file
        if is_rave(path):
            lines = list(_of_rave(path))
        elif path.is_file():
            lines = list(of_file(path))
        else:
            lines = list(self._of_model(path))
        width = max(len(title) for title, _ in lines)
        for title, text in lines:
            print(f"{title:{width}}  {text}")

    def _of_model(self, path: Path) -> Lines:
        known = {model.name: model for model in models()} | {m.source: m for m in models()}
        info = None if path.is_dir() else known.get(self.model)
        if info is not None:
            titles = ("name", "source", "parameters", "size", "output", "features", "licence")
            yield from zip(titles, _row(info), strict=True)
            if info.place == "hub":
                return
            path = DEFAULT_FOLDER
        config = _own_config(path)
        if config is not None:
            about = {"output", "licence"} if info is not None else set[str]()
            yield from (line for line in _of_config(path, config) if line[0] not in about)
            return
        from lm_audio.loading import find_checkpoint

        kind = find_checkpoint(self.model).format
        options = ModelOptions(model=self.model, device="cpu", text_encoder=self.text_encoder)
        yield from _of_pipeline(options.load(), kind)


def _row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.name,
        model.source if model.place == "hub" else "this package",
        "?" if model.num_parameters is None else in_words(model.num_parameters),
        _bytes(model.size),
        sound(model.sample_rate, model.num_channels),
        ", ".join(model.abilities),
        model.licence,
    )


def _of_file(path: Path) -> Lines:
    from audio_tokenizers.audio_files import audio_info
    from lm_audio.origin import MAKER, command, read_origin

    info = audio_info(path)
    cut = ", truncated" if info.is_truncated else ""
    length = f"{info.duration:.2f} s, {sound(info.sample_rate, info.num_channels)}{cut}"
    yield "sound", length
    origin = read_origin(path)
    if origin:
        yield "made by", f"{MAKER} {origin[MAKER]}"
    for title, value in ((t, v) for t, v in origin.items() if t != MAKER):
        yield title, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if not origin:
        yield "made by", "unknown"
    again = command(origin)
    if again is not None:
        yield "command", again


def _of_tokens(path: Path) -> Lines:
    from audio_tokenizers.token_file import token_info

    info = token_info(path)
    yield "tokens", f"{info.num_codebooks} codebooks x {info.num_frames} frames"
    yield "frame rate", f"{info.frame_rate:.4g} Hz"
    yield "duration", f"{info.duration:.2f} s at {info.sample_rate} Hz"
    yield "codec", f"{info.codec} ({info.identity})"
    yield "command", shlex.join(["lm-audio", "decode", str(path), "-o", f"{path.stem}.wav"])


def is_rave(path: Path) -> bool:
    """Whether a path is a RAVE model: a folder of ours or of the original trainer, or an export."""
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return (path.suffix == ".ts" and path.is_file()) or (path / "config.gin").is_file()
    return isinstance(config, dict) and config.get("model_type") == "rave"


def _of_rave(path: Path) -> Lines:
    from audio_tokenizers.acoustic.rave import RaveCodec
    from audio_tokenizers.acoustic.rave.exports import read_export
    from audio_tokenizers.acoustic.registry import load_codec

    codec: Any = load_codec(path)
    assert isinstance(codec, RaveCodec)
    yield "format", f"RAVE, {'causal' if codec.config.causal else 'not causal'}"
    yield "parameters", in_words(sum(weight.numel() for weight in codec.parameters()))
    yield "sound", sound(codec.sample_rate, codec.num_channels)
    yield "latents", f"{codec.latent_size} at {codec.frame_rate:.2f} Hz"
    if codec.has_codebooks:
        codebooks = f"{codec.num_codebooks} codebooks of {codec.codebook_size}"
        yield "tokens", f"{codebooks} for {codec.config.quantised_dims} latents"
    else:
        yield "tokens", "none; fit codebooks with recipes/train_rave.py --start"
    live = 1000 * codec.live_stream(codec.hop_length).latency / codec.sample_rate
    yield "latency", f"{live:.1f} ms in blocks of {codec.hop_length} samples"
    if path.suffix == ".ts":
        yield "methods", ", ".join(read_export(path).methods) or "none"


def _own_config(folder: Path) -> dict[str, Any] | None:
    """The config.json of a folder in lm-audio's own format, else None."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    is_own = isinstance(config, dict) and config.get("model_type") == OWN_FORMAT
    return config if is_own else None


def _of_config(folder: Path, config: dict[str, Any]) -> Lines:
    """The details of a model that are in its files, without loading it."""
    try:
        output, networks = _of_renderer(folder, config["renderer"])
        yield "format", OWN_FORMAT
        yield "licence", config["about"]["licence"] or "not stated"
        yield "output", output
        yield from networks
        names: dict[str, None] = {}
        stages = [stage for stage in config["stages"] if stage.get("kind") != "sound"]
        for stage in stages:
            source = (stage["source"] or {}).get("condition")
            names |= dict.fromkeys(name for name in stage["conditioners"] if name != source)
        yield "conditions", ", ".join(names) or "none"
        if known := config["about"].get("known"):
            yield "trained on", ", ".join(known["examples"])
        if len(stages) < len(config["stages"]):
            rate = Fraction(config["stages"][0]["makes"]["rate"])
            yield "raises", f"the rate of sound from {float(rate):g} Hz; see lm-audio upsample"
        for stage in stages:
            count = num_stage_parameters(folder / stage["name"])
            if stage.get("kind") == "diffusion":
                rate, width = Fraction(stage["makes"]["rate"]), _latents(stage["makes"]["width"])
            else:
                rate = Fraction(stage["frame_rate"])
                width = _codebooks(_num_codebooks(folder, stage))
            text = _stage(count, width, float(rate), stage["context"] / float(rate))
            yield "stage", f"{stage['name']}: {text}"
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not a complete lm-audio model: {error}") from error


def _of_renderer(folder: Path, settings: dict[str, Any]) -> tuple[str, list[Line]]:
    """The output of a renderer, and lines about its networks."""
    if settings.get("takes") == "waveform":  # see saving/renderer.py
        return sound(settings["sample_rate"], settings["channels"]), []
    if "codebooks" not in settings:  # of spectrograms
        latents = _config(folder / "autoencoder")["latent_channels"]
        vocoder = _config(folder / "vocoder")
        bands = f"{vocoder['model_in_dim']} mel bands"
        return sound(vocoder["sampling_rate"], 1), [
            ("autoencoder", f"{latents} latent channels of {bands}"),
            ("vocoder", vocoder["model_type"]),
        ]
    codec = _config(folder / "codec")
    rate = codec.get("sample_rate") or codec["sampling_rate"]
    codebooks = f"{settings['codebooks']} codebooks of {codec['codebook_size']}"
    return sound(rate, settings["channels"]), [("codec", f"{codec['model_type']}, {codebooks}")]


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _num_codebooks(folder: Path, stage: dict[str, Any]) -> int:
    """Of a stage with a language model, from its pattern, or of a masked one, from its model."""
    if stage.get("kind") != "masked":
        return stage["pattern"]["num_codebooks"]
    return _config(folder / stage["name"])["num_streams"]


def _of_pipeline(model: "AudioPipeline", kind: str) -> Lines:
    from lm_audio.networks.cpu import kernels

    renderer = model.renderer
    yield "format", kind
    yield "licence", model.card.licence or "not stated"
    yield "output", sound(model.sample_rate, model.num_channels)
    signal = renderer.signal
    yield "codec", f"{renderer.identity}, {_width(signal)}"
    yield "conditions", ", ".join(model.conditions) or "none"
    if model.card.known is not None:
        yield "trained on", ", ".join(model.card.known.kinds)
    for stage in model.stages.values():
        yield "stage", f"{stage.name}: {_of_stage(stage)}"
    yield "kernels", kernels.summary()


def _of_stage(stage: "Stage") -> str:
    from lm_audio.networks.packing import num_parameters

    model: Any = getattr(stage, "network", None) or stage.model  # type: ignore[attr-defined]
    signal = stage.makes
    rate = float(signal.rate or 0)
    seconds = stage.window_frames / rate if rate else 0.0
    width = _codebooks(signal.width) if signal.kind == "tokens" else _width(signal)
    return _stage(num_parameters(model), width, rate, seconds)


def _stage(count: int, width: str, rate: float, seconds: float) -> str:
    return f"{in_words(count)} parameters, {width} at {rate:g} Hz, window of {seconds:.1f} s"


def _width(signal: "Signal") -> str:
    if signal.kind == "tokens":
        return f"{_codebooks(signal.width)} of {signal.num_tokens}"
    return _latents(signal.width)


def _codebooks(width: int) -> str:
    return f"{width} codebook{'' if width == 1 else 's'}"


def _latents(width: int) -> str:
    return f"latents of width {width}"


def _bytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
