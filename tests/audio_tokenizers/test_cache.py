"""The token cache: hits, every part of the key, damage, and many writers."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from audio_tokenizers.cache import TokenCache


class TinyCodec:
    """Quantises the mean of 4 samples in K steps, and counts how often it is asked."""

    sample_rate, hop_length, frame_rate = 16_000, 4, 4_000.0
    num_codebooks, codebook_size, num_channels = 3, 1_000, 1

    def __init__(self, *, identity: str = "tiny-1", has_gains: bool = False, offset: int = 0):
        self.identity = identity
        self.has_gains = has_gains
        self.offset = offset
        self.num_calls = 0

    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        self.num_calls += 1
        frames = samples.mean(dim=1).unfold(-1, 4, 4).mean(dim=-1)  # [B, T]
        steps = torch.arange(1, (num_codebooks or self.num_codebooks) + 1)[:, None]
        return (frames[:, None].abs() * 100 * steps).long() + self.offset

    def gains(self, samples: Tensor) -> Tensor | None:
        return samples.abs().amax(dim=(1, 2))[:, None] if self.has_gains else None


class TinySemantic:
    identity, sample_rate, frame_rate, num_tokens = "semantic-1", 16_000, 4_000.0, 100

    def __init__(self) -> None:
        self.num_calls = 0

    def encode(self, samples: Tensor) -> Tensor:
        self.num_calls += 1
        return (samples.abs() * 50).long()[:, :1, ::4]

    def features(self, samples: Tensor, layer: int) -> Tensor:
        return samples.transpose(1, 2) * layer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("has_gains", [False, True])
def test_second_time_reads_what_the_first_time_computed(tmp_path: Path, has_gains: bool) -> None:
    codec, samples = TinyCodec(has_gains=has_gains), noise(2, 1, 40)

    first = TokenCache(tmp_path).encode(codec, samples)
    second = TokenCache(tmp_path).encode(codec, samples)

    assert codec.num_calls == 2  # one for each of the batch
    for encoded in (first, second):
        assert encoded.tokens.dtype == torch.int64
        assert torch.equal(encoded.tokens, codec.encode(samples))
        if has_gains:
            assert encoded.gains is not None
            assert torch.equal(encoded.gains, samples.abs().amax(dim=(1, 2))[:, None])
        else:
            assert encoded.gains is None


def test_semantic_tokens_are_cached(tmp_path: Path) -> None:
    tokenizer, samples = TinySemantic(), noise(1, 1, 40)
    cache = TokenCache(tmp_path)

    first, second = cache.encode(tokenizer, samples), cache.encode(tokenizer, samples)

    assert tokenizer.num_calls == 1
    assert torch.equal(first.tokens, second.tokens)
    assert second.gains is None


def test_any_change_of_the_key_is_a_miss(tmp_path: Path) -> None:
    cache, samples = TokenCache(tmp_path), noise(1, 1, 40)
    cache.encode(TinyCodec(), samples)
    changed = samples.clone()
    changed[0, 0, 7] += 1e-6

    for codec, heard, num_codebooks in [
        (TinyCodec(identity="tiny-2", offset=5), samples, None),
        (TinyCodec(), changed, None),
        (TinyCodec(), samples.reshape(1, 2, 20), None),
        (TinyCodec(), samples, 2),
    ]:
        tokens = cache.encode(codec, heard, num_codebooks=num_codebooks).tokens
        assert codec.num_calls == 1
        assert torch.equal(tokens, codec.encode(heard, num_codebooks=num_codebooks))

    codec = TinyCodec()
    cache.encode(codec, samples, num_codebooks=3)  # 3 is the default: the same tokens
    assert codec.num_calls == 0


def test_batch_and_single_share_entries(tmp_path: Path) -> None:
    codec, samples = TinyCodec(), noise(3, 1, 40)
    cache = TokenCache(tmp_path)
    cache.encode(codec, samples[1:2])

    cache.encode(codec, samples)

    assert codec.num_calls == 3
    assert len(files(tmp_path)) == 3


def test_small_tokens_are_stored_in_two_bytes(tmp_path: Path) -> None:
    cache, samples = TokenCache(tmp_path), noise(1, 1, 40)
    cache.encode(TinyCodec(), samples)
    cache.encode(TinyCodec(identity="large", offset=2**15), samples)
    cache.encode(TinyCodec(identity="negative", offset=-1_000), samples)

    stored = set()
    for path in files(tmp_path):
        with safe_open(path, framework="pt") as file:
            tokens = file.get_tensor("tokens")
            stored.add((tokens.dtype, int(tokens.min()) < 0, int(tokens.max()) >= 2**15))
        assert path.parent.parent.parent == tmp_path
    assert stored == {
        (torch.int16, False, False),
        (torch.int64, False, True),
        (torch.int64, True, False),
    }
    large = TinyCodec(identity="large", offset=2**15)
    assert torch.equal(cache.encode(large, samples).tokens, large.encode(samples))


def test_audio_shorter_than_a_frame_is_cached(tmp_path: Path) -> None:
    tokenizer, samples = TinySemantic(), torch.zeros(1, 1, 0)
    for _ in range(2):
        assert TokenCache(tmp_path).encode(tokenizer, samples).tokens.shape == (1, 1, 0)
    assert tokenizer.num_calls == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "no header"])
def test_damaged_file_is_made_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    cache, codec, samples = TokenCache(tmp_path), TinyCodec(), noise(1, 1, 40)
    expected = cache.encode(codec, samples).tokens
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-10],
            "empty": b"",
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "text": b"hello",
            "no header": data[100:],
        }[damage]
    )

    with pytest.warns(UserWarning, match=r"is damaged .*; it is made again"):
        again = cache.encode(codec, samples).tokens

    assert codec.num_calls == 2
    assert torch.equal(again, expected)
    assert path.read_bytes() == data


def test_misplaced_file_is_not_believed(tmp_path: Path) -> None:
    cache, samples = TokenCache(tmp_path), noise(1, 1, 40)
    cache.encode(TinyCodec(identity="old", offset=7), samples)
    (old,) = files(tmp_path)
    new = TinyCodec(identity="new")
    cache.encode(new, samples)
    (place,) = set(files(tmp_path)) - {old}
    place.write_bytes(old.read_bytes())

    with pytest.warns(UserWarning, match="belongs to other audio or to another tokenizer"):
        tokens = cache.encode(new, samples).tokens

    assert torch.equal(tokens, new.encode(samples))


def test_failing_tokenizer_leaves_nothing(tmp_path: Path) -> None:
    class Broken(TinyCodec):
        def gains(self, samples: Tensor) -> Tensor | None:
            raise RuntimeError(f"out of memory for {samples.shape}")

    with pytest.raises(RuntimeError, match="out of memory"):
        TokenCache(tmp_path).encode(Broken(), noise(1, 1, 40))
    assert files(tmp_path) == []


def test_write_that_fails_halfway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_text(f"half of {sorted(tensors)} {metadata}")
        raise OSError("disk full")

    monkeypatch.setattr("audio_tokenizers.cache.save_file", fail)

    with pytest.raises(OSError, match="disk full"):
        TokenCache(tmp_path).encode(TinyCodec(), noise(1, 1, 40))
    assert files(tmp_path) == []


def test_num_codebooks_of_a_semantic_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_codebooks=1 has no effect on a semantic tokenizer"):
        TokenCache(tmp_path).encode(TinySemantic(), noise(1, 1, 40), num_codebooks=1)


@pytest.mark.parametrize("shape", [(40,), (1, 40), (0, 1, 40), (1, 0, 40)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \[B, C, N\]"):
        TokenCache(tmp_path).encode(TinyCodec(), torch.zeros(shape))


WRITER = """
import sys, time, warnings
from pathlib import Path
from types import SimpleNamespace
import torch
from audio_tokenizers.cache import TokenCache

warnings.simplefilter("error")  # a damaged file would warn
torch.set_num_threads(1)
samples, expected = torch.ones(1, 1, 4), torch.arange(30_000).reshape(1, 1, -1)
tokenizer = SimpleNamespace(identity="one", encode=lambda samples: expected)
ready, cache = Path(sys.argv[1], "ready"), TokenCache(Path(sys.argv[1], "cache"))
(ready / sys.argv[2]).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.001)
for _ in range(40):
    assert torch.equal(cache.encode(tokenizer, samples).tokens, expected)
    for path in cache.folder.rglob("[!.]*.safetensors"):
        path.unlink(missing_ok=True)
cache.encode(tokenizer, samples)
print("done")
"""


def test_processes_that_write_one_entry_do_not_disturb_each_other(tmp_path: Path) -> None:
    (tmp_path / "ready").mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]

    outputs = [process.communicate(timeout=120) for process in processes]

    assert outputs == [("done\n", "")] * 2
    assert len(files(tmp_path / "cache")) == 1  # and no temporary file


def test_hit_gives_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            TokenCache(tmp_path).encode(TinyCodec(), noise(1, 1, 40))
