"""The token cache: hits, misses, damage, and many writers."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from audio_tokenizers.cache import TokenCache

KEY = ("audio", "tokenizer", 4)


def refuse() -> dict[str, Tensor]:
    raise AssertionError("computed again")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_call_reads_what_the_first_computed(tmp_path: Path) -> None:
    made = {"tokens": torch.arange(40).reshape(1, 4, 10), "gains": torch.rand(1, 3)}
    assert TokenCache(tmp_path).get(KEY, lambda: made) is made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = TokenCache(tmp_path).get(KEY, refuse)
    assert again.keys() == made.keys()
    for name in made:
        assert again[name].dtype == made[name].dtype
        assert torch.equal(again[name], made[name])


def test_any_change_of_the_key_is_a_miss(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    keys = [KEY, ("other", *KEY[1:]), ("audio", "other", 4), ("audio", "tokenizer", 3), KEY[:2]]
    for number, key in enumerate(keys):
        cache.get(key, lambda number=number: {"tokens": torch.tensor([number])})
    assert [cache.get(key, refuse)["tokens"].item() for key in keys] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("values", [[0, 2**15 - 1], [2**15], [-(2**15) - 1], []])
def test_tokens_are_stored_in_two_bytes_where_they_fit(tmp_path: Path, values: list[int]) -> None:
    cache, tokens = TokenCache(tmp_path), torch.tensor(values, dtype=torch.int64)
    cache.get(KEY, lambda: {"tokens": tokens})
    assert torch.equal(cache.get(KEY, refuse)["tokens"], tokens)
    with safe_open(cache.path(KEY), framework="pt") as file:
        stored = file.get_tensor("tokens").dtype
    assert stored == (torch.int16 if all(abs(each) < 2**15 for each in values) else torch.int64)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no header"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    cache, made = TokenCache(tmp_path), {"tokens": torch.arange(40)}
    cache.get(KEY, lambda: made)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    damaged = {"cut": data[:-10], "empty": b"", "text": b"hello", "no header": data[100:]}
    path.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match=r"is damaged .*; encoding again"):
        cache.get(KEY, lambda: made)
    assert path.read_bytes() == data


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="computed again"):
        TokenCache(tmp_path).get(KEY, refuse)

    def fail(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_text(f"half of {sorted(tensors)}")
        raise OSError("disk full")

    monkeypatch.setattr("audio_tokenizers.cache.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        TokenCache(tmp_path).get(KEY, lambda: {"tokens": torch.arange(4)})
    assert files(tmp_path) == []


WRITER = """
import sys, time, warnings
from pathlib import Path
import torch
from audio_tokenizers.cache import TokenCache

warnings.simplefilter("error")  # a damaged file would warn
torch.set_num_threads(1)
expected = torch.arange(30_000).reshape(1, 1, -1)
ready, cache = Path(sys.argv[1], "ready"), TokenCache(Path(sys.argv[1], "cache"))
(ready / sys.argv[2]).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.001)
for _ in range(40):
    assert torch.equal(cache.get(["one"], lambda: {"tokens": expected})["tokens"], expected)
    for path in cache.folder.rglob("[!.]*.safetensors"):
        path.unlink(missing_ok=True)
cache.get(["one"], lambda: {"tokens": expected})
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
