"""Shards: prepared streams of tokens or samples, the training data of recipes.

A folder of safetensors files, `train-00000.safetensors` and so on, memory-mapped for random access.
Each has one tensor [K, frames] per stream, with the examples concatenated, and their metadata in
the header. Reading needs only torch and safetensors.

Shapes: K codebooks or channels, T frames.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audio_tokenizers.atomic import replacing

FORMAT = "lm-audio shard 1"
MAX_INT16 = 2**15 - 1
SAMPLES = "samples"
"""The stream of 16-bit sound."""

Conditions = dict[str, str | float | list[str]]
"""The conditions of an example by name; of a list, a random item is used each time."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The metadata of a stream.

    Args:
        rate: frames per second.
        num_tokens: of each codebook; None for samples: 16-bit sound, K channels.
        identity: of the tokenizer that made the stream.
    """

    rate: Fraction
    num_codebooks: int
    num_tokens: int | None
    identity: str

    @property
    def vocabulary(self) -> int:
        """The number of tokens, of a stream that has tokens."""
        if self.num_tokens is None:
            raise ValueError(f"The stream {self.identity} has samples. Use a stream of tokens.")
        return self.num_tokens


@dataclass(frozen=True, kw_only=True)
class Example:
    """One clip: a tensor [K, T] for each stream, and its conditions."""

    id: str
    streams: Mapping[str, Tensor]
    conditions: Conditions


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The start of each example of a file in each stream, and the end."""

    path: Path
    starts: Mapping[str, np.ndarray]


def samples_stream(sample_rate: int, *, num_channels: int) -> Stream:
    """The metadata of 16-bit sound."""
    return Stream(
        rate=Fraction(sample_rate),
        num_codebooks=num_channels,
        num_tokens=None,
        identity=f"pcm16-{sample_rate}",
    )


def acoustic_identity(codec: str, *, token_sets: int) -> str:
    """The identity of a codec's tokens, for one or several separately coded channels."""
    return codec if token_sets == 1 else f"{codec}-{token_sets}-channels"


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05}.safetensors"


def write_shard(path: Path, examples: Sequence[Example], streams: Mapping[str, Stream]) -> None:
    """Writes examples, which must have exactly these streams, atomically."""
    for example in examples:
        if example.streams.keys() != streams.keys():
            raise ValueError(
                f"{example.id} has the streams {', '.join(example.streams)}, expected "
                f"{', '.join(streams)}."
            )
    header = {
        "format": FORMAT,
        "streams": {
            name: {**asdict(stream), "rate": list(stream.rate.as_integer_ratio())}
            for name, stream in streams.items()
        },
        "examples": [
            {
                "id": example.id,
                "frames": {name: tokens.shape[1] for name, tokens in example.streams.items()},
                "conditions": example.conditions,
            }
            for example in examples
        ],
    }
    tensors = {
        name: torch.cat([example.streams[name] for example in examples], dim=1).to(_dtype(stream))
        for name, stream in streams.items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"lm-audio": json.dumps(header)})


class Shards(Sequence[Example]):
    """The examples of one split of a folder, or of several, in the order of their files."""

    def __init__(self, folder: str | Path | Sequence[str | Path], split: str = "train") -> None:
        folders = [folder] if isinstance(folder, str | Path) else list(folder)
        found = [sorted(Path(each).glob(f"{split}-*.safetensors")) for each in folders]
        paths = [path for of_folder in found for path in of_folder]
        for each in folders:
            others = any(Path(each).glob("*-*.safetensors"))
            if not paths or not others:
                make = "hold clips out when you prepare the corpus, and make" if others else "make"
                raise ValueError(
                    f"{each} has no shards of the split {split!r}; {make} some with "
                    "recipes/tokenize_dataset.py."
                )
        self.ids: list[str] = []
        self.conditions: list[Conditions] = []
        self.streams: dict[str, Stream] = {}
        self._places: list[_Place] = []
        self._rows: list[tuple[int, int]] = []  # file and index in it of each example
        self._files: dict[int, Any] = {}
        for path in paths:
            self._take_in(path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices of it
        return Example(
            id=self.ids[index],
            streams={name: self.read(index, name) for name in self.streams},
            conditions=self.conditions[index],
        )

    def read(self, index: int, stream: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Frames [K, start:stop] of one stream of an example, as they are stored."""
        number, row = self._rows[index]
        first, end = self._places[number].starts[stream][row : row + 2]
        stop = end if stop is None else min(first + stop, end)
        if number not in self._files:
            self._files[number] = safe_open(self._places[number].path, "pt")
        return self._files[number].get_slice(stream)[:, min(first + start, stop) : stop]

    @property
    def identities(self) -> dict[str, str]:
        """The identities of the tokenizers that made the streams."""
        return {name: stream.identity for name, stream in self.streams.items()}

    @property
    def fingerprint(self) -> str:
        """A hash of the examples and their order, independent of their location."""
        facts = [
            {name: str(stream) for name, stream in self.streams.items()},
            {name: self.lengths(name).tolist() for name in self.streams},
            self.ids,
            self.conditions,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def lengths(self, stream: str) -> np.ndarray:
        """The frames of each example: [len], int64."""
        if stream not in self.streams:
            known = ", ".join(self.streams)
            raise ValueError(f"Unknown stream {stream!r}. The shards have: {known}.")
        return np.concatenate([np.diff(place.starts[stream]) for place in self._places])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # each process opens its own

    def _take_in(self, path: Path) -> None:
        try:
            header = _read_header(path)
            streams = {
                name: Stream(**{**stream, "rate": Fraction(*stream["rate"])})
                for name, stream in header["streams"].items()
            }
            examples = header["examples"]
            frames = [example["frames"] for example in examples]
            starts = {name: np.cumsum([0, *(each[name] for each in frames)]) for name in streams}
            ids = [str(example["id"]) for example in examples]
            conditions = [dict(example["conditions"]) for example in examples]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _damaged(path) from error
        if self.streams and streams != self.streams:
            raise ValueError(
                f"{path} has different streams than {self._places[0].path.name} beside it. "
                "Make both again with the same tokenizers."
            )
        self.streams = streams
        self._rows += [(len(self._places), row) for row in range(len(frames))]
        self._places.append(_Place(path=path, starts=starts))
        self.ids += ids
        self.conditions += conditions


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["lm-audio"])
    except SafetensorError as error:
        raise ValueError("not safetensors") from error
    if header["format"] != FORMAT:
        raise ValueError("another format")
    return header


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged or from another version. Delete it and make it again.")


def _dtype(stream: Stream) -> torch.dtype:
    fits = stream.num_tokens is None or stream.num_tokens <= MAX_INT16 + 1
    return torch.int16 if fits else torch.int32
