"""The verbs that tell of models: models, info."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from lm_audio.catalogue import DEFAULT, models
from lm_audio.cli.console import in_words
from lm_audio.cli.generate import ModelOptions
from lm_audio.families.family import ModelInfo

if TYPE_CHECKING:
    from lm_audio.generation.track import Stage
    from lm_audio.pipeline import AudioPipeline


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that can be loaded by name."""

    def run(self) -> None:
        titles = ("name", "from", "parameters", "size", "sound", "makes sound from", "licence")
        rows = [titles, *(_row(model) for model in models())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show a model's details, or the prompt, seed and model stored in an audio file."""

    model: tyro.conf.Positional[str] = DEFAULT
    """A folder, a name that `lm-audio models` lists, or a hub id; else the one in the package. Or a
    sound file of this program."""
    text_encoder: str | None = None
    """A folder or hub id of what reads the text, for files that lack it."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import SUFFIXES

        path = Path(self.model)
        is_sound = path.is_file() and path.suffix.lower() in SUFFIXES
        for title, text in _of_file(path) if is_sound else self._lines():
            print(f"{title:10}  {text}")

    def _lines(self) -> list[tuple[str, str]]:
        known = [m for m in models() if self.model in (m.name, m.source)]
        info = known[0] if known and not Path(self.model).is_dir() else None
        lines = [] if info is None else _of_card(info)
        if info is None or info.place == "package":
            from lm_audio.loading import find_checkpoint

            kind = find_checkpoint(self.model).format
            options = ModelOptions(model=self.model, device="cpu", text_encoder=self.text_encoder)
            told = {title for title, _ in lines}
            lines += [line for line in _of_model(options.load(), kind) if line[0] not in told]
        return lines


def _row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.name,
        model.source if model.place == "hub" else "this package",
        "?" if model.num_parameters is None else in_words(model.num_parameters),
        _bytes(model.size),
        _sound(model.sample_rate, model.num_channels),
        ", ".join(model.abilities),
        model.licence,
    )


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    from audio_tokenizers.audio_files import audio_info
    from lm_audio.origin import read_origin

    info = audio_info(path)
    yield "sound", f"{info.duration:.2f} s, {_sound(info.sample_rate, info.num_channels)}"
    origin = read_origin(path)
    for title, text in origin.items():
        yield title, str(text)
    if not origin:
        yield "made by", "not said"


def _of_card(model: ModelInfo) -> list[tuple[str, str]]:
    """A title and a text for each line."""
    titles = ("name", "from", "parameters", "size", "sound", "takes", "licence")
    return list(zip(titles, _row(model), strict=True))


def _of_model(model: "AudioPipeline", kind: str) -> Iterator[tuple[str, str]]:
    renderer = model.renderer
    yield "format", kind
    yield "licence", model.card.licence or "not stated"
    yield "sound", _sound(model.sample_rate, model.num_channels)
    signal = renderer.signal
    tokens = f"{signal.width} codebooks of {signal.num_tokens}"
    yield "codec", f"{renderer.identity}, {tokens}"
    yield "takes", ", ".join(model.conditions) or "no condition"
    if model.card.known is not None:
        yield "knows", ", ".join(model.card.known.kinds)
    for stage in model.stages.values():
        yield "stage", f"{stage.name}: {_stage(stage)}"


def _stage(stage: "Stage") -> str:
    from lm_audio.networks.packing import num_parameters

    model: Any = stage.model  # type: ignore[attr-defined]  # each kind has its own
    count = num_parameters(model)
    signal = stage.makes
    seconds = stage.window_frames / float(signal.rate) if signal.rate else 0.0
    return (
        f"{in_words(count)} parameters, {signal.width} codebooks at "
        f"{float(signal.rate):g} Hz, sees {seconds:.1f} s at once"
    )


def _sound(sample_rate: int, num_channels: int) -> str:
    channels = {1: "mono", 2: "stereo"}.get(num_channels, f"{num_channels} channels")
    return f"{sample_rate} Hz {channels}"


def _bytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
