"""Shards give back what was written, piece by piece, and refuse what does not belong together."""

import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from lm_audio.data.shards import Example, Shards, Stream, shard_path, write_shard

STREAMS = {
    "semantic": Stream(rate=Fraction(25), num_codebooks=1, num_tokens=50_000, identity="s"),
    "acoustic": Stream(rate=Fraction(50), num_codebooks=4, num_tokens=1024, identity="a"),
    "samples": Stream(rate=Fraction(800), num_codebooks=2, num_tokens=None, identity="pcm"),
}


def example(number: int, *, seconds: int) -> Example:
    random = torch.Generator().manual_seed(number)
    return Example(
        id=f"clip {number}",
        streams={
            "semantic": torch.randint(50_000, (1, 25 * seconds), generator=random),
            "acoustic": torch.randint(1024, (4, 50 * seconds), generator=random),
            "samples": torch.randint(-32768, 32768, (2, 800 * seconds), generator=random),
        },
        conditions={"text": [f"sound {number}", "noise"], "tempo": 60.0 + number},
    )


@pytest.fixture
def written(tmp_path: Path) -> list[Example]:
    examples = [example(number, seconds=1 + number) for number in range(5)]
    write_shard(shard_path(tmp_path, "train", 0), examples[:3], STREAMS)
    write_shard(shard_path(tmp_path, "train", 1), examples[3:], STREAMS)
    write_shard(shard_path(tmp_path, "held_out", 0), examples[:1], STREAMS)
    return examples


def test_shards_give_back_what_was_written(tmp_path: Path, written: list[Example]) -> None:
    shards = Shards(tmp_path)
    assert len(shards) == 5
    assert len(Shards(tmp_path, "held_out")) == 1
    assert shards.streams == STREAMS
    for found, expected in zip(shards, written, strict=True):
        assert (found.id, found.conditions) == (expected.id, expected.conditions)
        for name, tokens in expected.streams.items():
            assert torch.equal(found.streams[name].long(), tokens)


def test_a_part_of_a_stream_is_read_and_never_its_neighbours(
    tmp_path: Path, written: list[Example]
) -> None:
    shards = pickle.loads(pickle.dumps(Shards(tmp_path)))
    for index, expected in enumerate(written):
        for span in [(0, 10), (13, 20), (20, 10_000), (9_000, 10_000), (30, None)]:
            found = shards.read(index, "acoustic", *span)
            assert torch.equal(found.long(), expected.streams["acoustic"][:, slice(*span)])
    assert shards.lengths("semantic").tolist() == [25, 50, 75, 100, 125]


def test_tokens_take_two_bytes_where_they_fit(tmp_path: Path, written: list[Example]) -> None:
    assert len(written) == 5
    shards = Shards(tmp_path)
    assert shards.read(0, "acoustic").dtype == shards.read(0, "samples").dtype == torch.int16
    assert shards.read(0, "semantic").dtype == torch.int32


def test_files_of_other_tokenizers_are_refused(tmp_path: Path, written: list[Example]) -> None:
    others = {name: stream for name, stream in STREAMS.items() if name != "samples"}
    other = Example(
        id="x",
        streams={name: written[0].streams[name] for name in others},
        conditions={},
    )
    write_shard(shard_path(tmp_path, "train", 2), [other], others)
    with pytest.raises(ValueError, match=r"train-00002\S* has different streams than train-00000"):
        Shards(tmp_path)


def test_several_folders_are_one_corpus(tmp_path: Path, written: list[Example]) -> None:
    more = [example(number, seconds=1) for number in (7, 8)]
    write_shard(shard_path(tmp_path / "more", "train", 0), more, STREAMS)
    shards = Shards([tmp_path, tmp_path / "more"])
    assert shards.ids == [each.id for each in [*written, *more]]
    assert torch.equal(shards[6].streams["acoustic"].long(), more[1].streams["acoustic"])
    assert len(Shards([tmp_path, tmp_path / "more"], "held_out")) == 1
    with pytest.raises(ValueError, match="none has no shards of the split 'train'"):
        Shards([tmp_path, tmp_path / "none"])


def test_an_example_without_a_stream_is_refused(tmp_path: Path) -> None:
    lacking = Example(id="x", streams={"semantic": torch.zeros(1, 5)}, conditions={})
    with pytest.raises(ValueError, match="x has the streams semantic, expected semantic, acoustic"):
        write_shard(shard_path(tmp_path, "train", 0), [lacking], STREAMS)


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, written: list[Example]) -> None:
    assert written
    path = shard_path(tmp_path, "train", 1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"train-00001\S* is damaged or from another version"):
        Shards(tmp_path)


def test_no_shards_and_no_such_stream_are_clear_errors(
    tmp_path: Path, written: list[Example]
) -> None:
    assert written
    with pytest.raises(ValueError, match="no shards of the split 'test'; hold clips out when you"):
        Shards(tmp_path, "test")
    with pytest.raises(
        ValueError, match=r"Unknown stream 'coarse'. The shards have: semantic, acoustic"
    ):
        Shards(tmp_path).lengths("coarse")


def test_a_fingerprint_is_of_the_examples_and_not_of_their_place(
    tmp_path: Path, written: list[Example]
) -> None:
    fingerprint = Shards(tmp_path).fingerprint
    write_shard(shard_path(tmp_path / "moved", "train", 0), written, STREAMS)
    assert Shards(tmp_path / "moved").fingerprint == fingerprint
    told_otherwise = replace(written[0], conditions={"text": ["another sound"]})
    for others in (written[:4], written[::-1], [told_otherwise, *written[1:]]):
        write_shard(shard_path(tmp_path / "moved", "train", 0), others, STREAMS)
        assert Shards(tmp_path / "moved").fingerprint != fingerprint
