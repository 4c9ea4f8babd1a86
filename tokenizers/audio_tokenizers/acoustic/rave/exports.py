"""Reads models of the original RAVE: `.ts` exports, and checkpoints of its trainer with their gin.

Only tensors and plain attributes are read (`torchscript.py`); a gin file is read as text. Layers
are recognised by their shapes, in the order of the file, so names may differ between versions. A
tensor that fits no layer is refused by its name.

Version 2 and its variants are read. Version 1 has another encoder and decoder, and is recognised
but refused. What a file cannot say is assumed: the usual dilations, the filter bank of `pqmf.py`,
and, if nothing states otherwise, that the model is not causal.
"""

import ast
import re
import warnings
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.acoustic.rave.codec import RaveCodec
from audio_tokenizers.acoustic.rave.config import DILATIONS, RaveConfig
from audio_tokenizers.acoustic.rave.layers import Upsample
from audio_tokenizers.acoustic.rave.torchscript import read_torchscript
from audio_tokenizers.weights import read_pickle

SUFFIX = ".ts"
GIN = "config.gin"
METHODS = ("encode", "decode", "forward", "prior")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of an export: its channels, and samples per step, in and out."""

    in_channels: int
    in_ratio: int
    out_channels: int
    out_ratio: int


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a file holds: tensors and attributes by dotted names, and its methods."""

    source: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    @property
    def methods(self) -> dict[str, Method]:
        found = {}
        for name in METHODS:
            params = self.tensor(f"{name}_params")
            if params is not None and params.numel() == 4:
                inputs, in_ratio, outputs, out_ratio = (int(x) for x in params.flatten().tolist())
                found[name] = Method(
                    in_channels=inputs,
                    in_ratio=in_ratio,
                    out_channels=outputs,
                    out_ratio=out_ratio,
                )
        return found

    def tensor(self, name: str) -> Tensor | None:
        """The tensor with this last part of a name, the shortest path first."""
        paths = [path for path in self.tensors if path.split(".")[-1] == name]
        return self.tensors[min(paths, key=len)] if paths else None

    def value(self, *names: str) -> Any:
        """The attribute or scalar tensor with one of these last parts of a name, or None."""
        for path, value in sorted(self.values.items(), key=lambda item: len(item[0])):
            if path.split(".")[-1].lower() in names:
                return value
        for name in names:
            tensor = self.tensor(name)
            if tensor is not None and tensor.numel() == 1:
                return tensor.item()
        return None


def read_export(path: str | Path) -> Export:
    """Reads a `.ts` file."""
    tensors, values = read_torchscript(path)
    return Export(source=Path(path), tensors=tensors, values=values)


def read_run(folder: str | Path) -> Export:
    """Reads a folder of the trainer: a checkpoint and its config.gin."""
    folder = Path(folder)
    checkpoints = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise ValueError(f"{folder} has no checkpoint (.ckpt) beside its {GIN}.")
    package = read_pickle(checkpoints[-1])
    state = package.get("state_dict", package)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    values = read_gin((folder / GIN).read_text(encoding="utf-8"))
    return Export(source=checkpoints[-1], tensors=tensors, values=values)


def read_gin(text: str) -> dict[str, Any]:
    """The bindings of a gin file with literal values, macros resolved; nothing is imported."""
    joined = re.sub(r"\(\s*\n|,\s*\n\s*", lambda match: match[0].replace("\n", " "), text)
    bindings: dict[str, Any] = {}
    for line in joined.splitlines():
        match = re.fullmatch(r"\s*([\w./]+)\s*=\s*(.+?)\s*(#.*)?", line)
        if match is None:
            continue
        try:
            bindings[match[1]] = ast.literal_eval(match[2])
        except (ValueError, SyntaxError):
            bindings[match[1]] = match[2]
    return {
        name: bindings.get(value[1:], value)
        if isinstance(value, str) and value.startswith("%")
        else value
        for name, value in bindings.items()
    }


def load_export(export: Export, *, causal: bool | None = None) -> RaveCodec:
    """Rebuilds a model from what a file holds.

    Args:
        causal: for files that do not state it.
    """
    encoder = _Layers(export, "encoder")
    decoder = _Layers(export, "decoder")
    methods = export.methods
    channels = methods["forward"].in_channels if "forward" in methods else 1
    books = _codebooks(export)
    first, ratios, units, out = _parse_encoder(encoder)
    mirrored, amplitudes, noise_ratios, latents_in = _parse_decoder(decoder, ratios, units)
    D = out if books is not None else out // 2
    config = RaveConfig(
        sample_rate=_sample_rate(export),
        num_channels=channels,
        num_bands=first.shape[1] // channels,
        capacity=first.shape[0],
        ratios=ratios,
        dilations=_dilations(export, units),
        latent_size=D,
        causal=_is_causal(export) if causal is None else causal,
        bottleneck="gaussian" if books is None else "discrete",
        num_codebooks=8 if books is None else len(books),
        codebook_size=1024 if books is None else books.shape[1],
        quantised_dims=0 if books is None else books.shape[2],
        noise_amplitudes=amplitudes // first.shape[1] if amplitudes else 0,
        noise_ratios=noise_ratios or (4, 4, 4),
        noise_channels=latents_in - D,
    )
    if "encode" in methods and methods["encode"].out_ratio not in (1, config.hop_length):
        raise ValueError(
            f"{export.source} encodes {methods['encode'].out_ratio} samples per frame, but its "
            f"layers make {config.hop_length}."
        )
    codec = RaveCodec(config, trainable=False)
    weights = encoder.weights + mirrored
    with torch.no_grad():
        for layer, weight in zip(codec.layers(), weights, strict=True):
            is_up = isinstance(layer, Upsample)
            layer.weight.copy_(_transposed(weight) if is_up else _windowed(weight))
        for name in ("latent_pca", "latent_mean", "fidelity"):
            tensor = export.tensor(name)
            if tensor is not None and books is None:
                getattr(codec, name).copy_(tensor.reshape(getattr(codec, name).shape))
        if books is not None:
            codec.codebooks.copy_(books)
    return codec.eval().requires_grad_(False)


class _Layers:
    """The convolutions of a part in the order of the file, without weight normalisation."""

    def __init__(self, export: Export, part: str) -> None:
        self.source, self.part = export.source, part
        self.names: list[str] = []
        self.weights: list[Tensor] = []
        own = {n: t for n, t in export.tensors.items() if part in n.split(".")[:-1]}
        for name, tensor in own.items():
            stem, _, leaf = name.rpartition(".")
            if leaf in ("weight_v", "original1"):
                g = own.get(f"{stem}.{'weight_g' if leaf == 'weight_v' else 'original0'}")
                if g is None:
                    raise ValueError(f"{self.source}: {name} has no weight_g beside it.")
                self._add(name, torch._weight_norm(tensor.float(), g.float(), 0))
            elif leaf == "weight" and tensor.ndim == 3:
                self._add(name, tensor.float())
            elif leaf == "bias" or (leaf == "weight" and tensor.ndim == 1):
                raise ValueError(
                    f"{self.source}: {name} is a bias or a norm's weight, which RAVE 2 does not "
                    "have; models of version 1 cannot be read."
                )
        if not self.weights:
            raise ValueError(f"{self.source} holds no convolutions of a RAVE {part}.")
        self._next = 0

    def _add(self, name: str, weight: Tensor) -> None:
        self.names.append(name)
        self.weights.append(weight)

    def shape(self, ahead: int = 0) -> tuple[int, ...]:
        """The shape of a coming weight; () at the end."""
        index = self._next + ahead
        return tuple(self.weights[index].shape) if index < len(self.weights) else ()

    def take(self, fits: bool, expected: str) -> Tensor:
        """The next weight, refused by its name unless it fits."""
        if self._next >= len(self.weights):
            raise ValueError(f"{self.source}: the {self.part} ends before {expected}.")
        if not fits:
            raise ValueError(
                f"{self.source}: {self.names[self._next]} of shape {list(self.shape())} is not "
                f"{expected}."
            )
        self._next += 1
        return self.weights[self._next - 1]

    def take_units(self, width: int) -> int:
        """Takes residual units of this width and returns their number."""
        for number in count():
            if self.shape() != (width, width, 3) or self.shape(1) != (width, width, 1):
                return number
            self.take(True, "")
            self.take(True, "")
        raise AssertionError

    def end(self) -> None:
        if self.shape():
            raise ValueError(
                f"{self.source}: {self.names[self._next]} of shape {list(self.shape())} fits no "
                f"layer of a RAVE 2 {self.part}."
            )


def _parse_encoder(layers: _Layers) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], int]:
    """The first weight, the ratios, the residual units before each, and the output's width."""
    first = layers.take(layers.shape()[2:] == (7,), "a first convolution of 7 taps")
    width, ratios, units = first.shape[0], [], []
    while True:
        number = layers.take_units(width)
        shape = layers.shape()
        if number == 0 and shape[:1] != (2 * width,):
            break
        if number == 0 and shape and shape[2] % 2:
            raise ValueError(
                f"{layers.source} is a model of RAVE 1 (its encoder has no residual units), which "
                "cannot be read; train or export it with version 2."
            )
        fits = len(shape) == 3 and shape[:2] == (2 * width, width) and shape[2] % 4 == 0
        layers.take(fits, f"a strided convolution from {width} to {2 * width} channels")
        ratios.append(shape[2] // 2)
        units.append(number)
        width *= 2
    last = layers.take(layers.shape()[1:] == (width, 3), "a last convolution of 3 taps")
    layers.end()
    return first, tuple(ratios), tuple(units), last.shape[0]


def _parse_decoder(
    layers: _Layers, ratios: tuple[int, ...], units: tuple[int, ...]
) -> tuple[list[Tensor], int, tuple[int, ...], int]:
    """The weights in our order, the noise's outputs, its ratios, and the input's width."""
    shape = layers.shape()
    first = layers.take(shape[2:] == (3,), "a first convolution of 3 taps")
    width = first.shape[0]
    for ratio, number in zip(reversed(ratios), reversed(units), strict=True):
        fits = layers.shape() == (width, width // 2, 2 * ratio)
        layers.take(fits, f"a transposed convolution of ratio {ratio} from {width} channels")
        width //= 2
        found = layers.take_units(width)
        if found != number:
            raise ValueError(
                f"{layers.source}: the decoder has {found} residual units of width {width}, the "
                f"encoder {number}."
            )
    layers.take(layers.shape()[1:] == (width, 7), "an output convolution of 7 taps")
    noise_ratios, amplitudes = [], 0
    while layers.shape()[:2] == (width, width) and layers.shape()[2] % 4 == 0:
        noise_ratios.append(layers.shape()[2] // 2)
        layers.take(True, "")
    if noise_ratios:
        last = layers.take(layers.shape()[1:] == (width, 3), "the noise's last convolution")
        amplitudes = last.shape[0]
    layers.end()
    return layers.weights, amplitudes, tuple(noise_ratios), first.shape[1]


def _windowed(weight: Tensor) -> Tensor:
    """A convolution's weight [out, in, taps] as ours [out, taps * in]."""
    return weight.transpose(1, 2).flatten(1)


def _transposed(weight: Tensor) -> Tensor:
    """A transposed convolution's weight [in, out, 2 * ratio] as ours [ratio * out, 2 * in]."""
    own, before = weight.chunk(2, dim=2)
    return torch.cat([before, own]).permute(2, 1, 0).flatten(0, 1)


def _codebooks(export: Export) -> Tensor | None:
    """The codebooks [K, V, D] of a discrete model, if there are any."""
    names = [n for n in export.tensors if n.split(".")[-1] in ("embed", "codebook", "codebooks")]
    books = [export.tensors[n].float() for n in names]
    if not books:
        return None
    flat = [book.reshape(-1, *book.shape[-2:]) for book in books]  # [1 or K, V, D] each
    if len({tuple(book.shape[1:]) for book in flat}) != 1:
        raise ValueError(f"{export.source}: the codebooks {', '.join(names)} differ in shape.")
    return torch.cat(flat)


def _sample_rate(export: Export) -> int:
    found = export.value("sr", "sampling_rate", "sample_rate")
    if not isinstance(found, int | float) or found < 1000:
        raise ValueError(f"{export.source} does not state its sample rate.")
    return int(found)


def _dilations(export: Export, units: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Those that a gin file states, else the usual ones."""
    stated = export.value("dilations")
    if isinstance(stated, list | tuple) and [len(d) for d in stated] == list(units):
        return tuple(map(tuple, stated))
    usual = DILATIONS[0]
    if max(units, default=0) > len(usual):
        raise ValueError(
            f"{export.source} has {max(units)} residual units in a row; their dilations are not "
            "known."
        )
    return tuple(usual[:number] for number in units)


def _is_causal(export: Export) -> bool:
    """Whether a gin file or the delays of an export's layers say so."""
    for name, value in export.values.items():
        if "padding" in name and value in ("causal", "centered"):
            return bool(value == "causal")
    stated = {**export.values, **export.tensors}
    delays = [
        int(delay)
        for name, delay in stated.items()
        if "encoder" in name.split(".") and name.split(".")[-1] == "cumulative_delay"
    ]
    if delays:
        return not any(delays)
    warnings.warn(
        f"{export.source} does not state whether the model is causal; it is read as not causal.",
        stacklevel=2,
    )
    return False


def load_foreign(path: Path, *, causal: bool | None = None) -> RaveCodec:
    """Loads a `.ts` file, or a folder of the trainer."""
    return load_export(read_run(path) if path.is_dir() else read_export(path), causal=causal)
