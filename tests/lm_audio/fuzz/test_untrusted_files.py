"""Damaged and forged files give a result or one clear sentence: no other exception, no hang.

`make fuzz` tries 10,000 inputs; LM_AUDIO_FUZZ sets the number per kind of file, 20 by default. The
input of a failure is made again from the seed in its message.
"""

import io
import json
import os
import random
import re
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
import torch

import lm_audio
from audio_tokenizers.acoustic.rave.torchscript import read_torchscript
from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.image_files import encode_image
from audio_tokenizers.token_file import EncodedAudio, load_encoded, save_encoded, token_info
from audio_tokenizers.weights import MappedFile, read_pickle, read_safetensors
from lm_audio.data.shards import Example, Shards, Stream, write_shard
from lm_audio.families.bark.voices import _read_npz
from lm_audio.generation.blend import parse_blend
from lm_audio.generation.story import parse
from lm_audio.saving.pickles import plain
from lm_audio.saving.pickles import read_pickle as read_nodes

NUM_INPUTS = int(os.environ.get("LM_AUDIO_FUZZ", "20"))
MOST_SECONDS = 10.0
MOST_MEMORY = 10**9  # bytes that one input may take
LONGEST = 1000  # characters of a message
Read = Callable[[Path], object]
Given = TypeVar("Given")


def check(read: Callable[[Given], object], given: Given, *, seed: int) -> None:
    """Fails unless `read` returns or raises one of our errors in one sentence, soon."""
    message = "none"
    before, begin = _peak(), time.monotonic()
    try:
        read(given)
    except (ValueError, OSError) as error:
        message = str(error)
    except Exception as error:
        pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    taken, grown = time.monotonic() - begin, _peak() - before
    assert message, f"seed {seed}: no message"
    assert "\n" not in message, f"seed {seed}: several lines: {message}"
    assert len(message) < LONGEST, f"seed {seed}: {message}"
    assert taken < MOST_SECONDS, f"seed {seed}: took {taken:.0f} s"
    assert grown < MOST_MEMORY, f"seed {seed}: took {grown / 1e6:.0f} MB"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


NUMBERS = (b"0", b"-1", b"1e999", b"99999999999999999999", b"NaN", b"null", b'"a"', b"[]", b"{}")


def mutated(data: bytes, seed: int) -> bytes:
    """A damaged copy; the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        data = chance.choice(_WAYS)(data, chance)
    return data


def _flip(data: bytes, chance: random.Random) -> bytes:
    copy = bytearray(data)
    for _ in range(min(len(copy), chance.choice((1, 1, 8, 64)))):
        copy[_place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(copy)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _drop(data: bytes, chance: random.Random) -> bytes:
    first = _place(data, chance)
    return data[:first] + data[first + chance.choice((1, 4, 100)) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    first = _place(data, chance)
    return data[:first] + chance.randbytes(chance.choice((1, 4, 100))) + data[first:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    first = _place(data, chance)
    return data[: first + chance.choice((4, 64, 1000))] + data[first:]


def _claim(data: bytes, chance: random.Random) -> bytes:
    """Replaces four or eight bytes by a number that is often a length."""
    value = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data) * 1000))
    packed = struct.pack(chance.choice(("<I", ">I", "<Q", ">Q")), value)
    first = _place(data, chance)
    return data[:first] + packed + data[first + len(packed) :]


def _renumber(data: bytes, chance: random.Random) -> bytes:
    """Replaces a number in text, as in JSON."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
    if not found:
        return data
    one = chance.choice(found)
    return data[: one.start()] + chance.choice(NUMBERS) + data[one.end() :]


def _place(data: bytes, chance: random.Random) -> int:
    """Mostly near the start, where headers are."""
    if not data:
        return 0
    end = len(data) if chance.random() < 0.3 else min(len(data), 200)
    return chance.randrange(end)


_WAYS = (_flip, _flip, _cut, _drop, _insert, _repeat, _claim, _renumber, _renumber)


def sound(form: str, subtype: str | None = None) -> bytes:
    made = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 2))
    soundfile.write(made, samples, 16_000, format=form, subtype=subtype)
    return made.getvalue()


def picture() -> bytes:
    return encode_image(torch.rand(1, 22_050) - 0.5, 44_100)


def resampled(path: Path) -> object:
    return read_audio(path, sample_rate=24_000, num_channels=1)


AUDIO = {
    "wav": lambda: sound("WAV"),
    "float.wav": lambda: sound("WAV", "FLOAT"),
    "flac": lambda: sound("FLAC"),
    "ogg": lambda: sound("OGG"),
    "mp3": lambda: sound("MP3"),
    "aiff": lambda: sound("AIFF"),
    "png": picture,
}


@pytest.mark.parametrize("kind", AUDIO)
def test_audio(kind: str, tmp_path: Path) -> None:
    good, path = AUDIO[kind](), tmp_path / f"sound.{kind}"
    path.write_bytes(good)
    assert read_audio(path).samples.isfinite().all()
    for seed in range(NUM_INPUTS):
        path.write_bytes(mutated(good, seed))
        check(audio_info, path, seed=seed)
        check(resampled, path, seed=seed)


def tokens(path: Path) -> None:
    encoded = EncodedAudio(
        tokens=torch.randint(0, 64, (4, 30)),
        gains=None,
        codec="frame-codec",
        identity="frame-codec-1",
        sample_rate=24_000,
        num_samples=14_000,
    )
    save_encoded(encoded, path)


def weights(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": torch.randn(8, 8), "b": torch.randn(3).half()}, path)


def pickled(path: Path) -> None:
    torch.save({"best_state": {"w": torch.randn(5, 5)}, "xp.cfg": "dim: 5"}, path)


def old_pickle(path: Path) -> None:
    torch.save({"w": torch.randn(5, 5)}, path, _use_new_zipfile_serialization=False)


def scripted(path: Path) -> None:
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4))).save(path)


def voice(path: Path) -> None:
    np.savez(path, semantic_prompt=np.arange(20), coarse_prompt=np.ones((2, 30), np.int64))


def read_all(path: Path) -> object:
    return {name: float(one.float().sum()) for name, one in read_safetensors(path).items()}


def read_mapped(path: Path) -> object:
    file = MappedFile(path)
    return {name: float(one.float().sum()) for name, one in file.tensors.items()}


FILES: dict[str, tuple[str, Callable[[Path], None], Read]] = {
    "tokens": ("t.safetensors", tokens, load_encoded),
    "facts of tokens": ("t.safetensors", tokens, token_info),
    "weights": ("w.safetensors", weights, read_all),
    "mapped weights": ("w.safetensors", weights, read_mapped),
    "pickles": ("w.pt", pickled, read_pickle),
    "old pickles": ("w.th", old_pickle, read_pickle),
    "nodes of pickles": ("w.bin", pickled, lambda path: plain(read_nodes(path))),
    "TorchScript": ("rave.ts", scripted, read_torchscript),
    "voices": ("voice.npz", voice, _read_npz),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_tensors(kind: str, tmp_path: Path) -> None:
    name, write, read = FILES[kind]
    path = tmp_path / name
    write(path)
    read(path)
    good = path.read_bytes()
    for seed in range(NUM_INPUTS):
        path.write_bytes(mutated(good, seed))
        check(read, path, seed=seed)


def all_of(folder: Path) -> object:
    return list(Shards(folder))


def test_shards(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.safetensors"
    stream = Stream(rate=Fraction(50), num_codebooks=4, num_tokens=64, identity="codec")
    examples = [
        Example(
            id=str(i), streams={"acoustic": torch.randint(0, 64, (4, 9))}, conditions={"n": 1.0}
        )
        for i in range(3)
    ]
    write_shard(path, examples, {"acoustic": stream})
    good = path.read_bytes()
    for seed in range(NUM_INPUTS):
        path.write_bytes(mutated(good, seed))
        check(all_of, tmp_path, seed=seed)


def in_folder(folder: Path, load: Callable[[Path], object]) -> None:
    """Damages one file of a folder at a time."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for seed in range(NUM_INPUTS):
        path = files[seed % len(files)]
        good = path.read_bytes()
        path.write_bytes(mutated(good, seed))
        try:
            check(load, folder, seed=seed)
        finally:
            path.write_bytes(good)


def copy(folder: Path, to: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            there = to / path.relative_to(folder)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
    return to


def test_models(model_folder: Path, tmp_path: Path) -> None:
    in_folder(copy(model_folder, tmp_path / "model"), lm_audio.load)


def test_codecs(model_folder: Path, tmp_path: Path) -> None:
    in_folder(copy(model_folder / "codec", tmp_path / "codec"), load_codec)


def test_models_of_musicgen(
    make_musicgen: Callable[..., object], save_musicgen: Callable[..., Path], tmp_path: Path
) -> None:
    in_folder(save_musicgen(make_musicgen(), tmp_path), lm_audio.load)


@pytest.mark.parametrize(
    ("good", "read"),
    [(b"0: calm piano; 15.5: a storm breaks", parse), (b"3: rain; 1: wind", parse_blend)],
)
def test_strings(good: bytes, read: Callable[[str], object]) -> None:
    for seed in range(NUM_INPUTS):
        text = mutated(good, seed).decode(errors="replace")
        check(read, text, seed=seed)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    for name, read in (("w.pt", read_pickle), ("rave.ts", read_torchscript), ("v.npz", _read_npz)):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in ("a/data.pkl", "a/version", "a/byteorder", "semantic_prompt.npy"):
                archive.writestr(part, b"\0" * 300_000_000)
        check(read, path, seed=0)


def test_huge_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    shape = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}
    header = json.dumps({"a": shape}).encode()
    for length in (len(header), 2**31, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + header)
        for read in (read_safetensors, MappedFile, load_encoded):
            check(read, path, seed=length)
