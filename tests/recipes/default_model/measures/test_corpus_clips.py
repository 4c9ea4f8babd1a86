"""Clips of a prepared corpus, of both splits."""

from pathlib import Path

import pytest

from measures.corpus_clips import captions_by_label, read_corpus, read_unseen

pytest.importorskip("lhotse")


def test_clips_of_both_splits_have_captions_and_parts(tmp_path: Path) -> None:
    from measures.synthetic_corpus import make_up_corpus

    texts = make_up_corpus(tmp_path, num_clips=6)
    train, held_out = (read_corpus(tmp_path, split) for split in ("train", "held_out"))
    assert len(train) + len(held_out) == 6
    assert not {clip.name for clip in train} & {clip.name for clip in held_out}
    clip = train[0]
    assert clip.text == f"the sound of {clip.label}"
    assert clip.captions == (clip.text, f"{clip.label} can be heard")
    assert clip.instruments == clip.speaker == clip.label
    assert clip.part(1.0, 1.0).audio(16_000).samples.shape == (1, 16_000)
    assert clip.part(3.0, 5.0).audio(16_000).samples.shape == (1, 8_000)
    known = captions_by_label([*train, *held_out])
    assert sorted(known) == ["drums", "flute", "piano"]
    assert known["piano"] == ["piano can be heard", "the sound of piano"]
    unseen = read_unseen(tmp_path)
    assert unseen["flute"] == ["some flute"]
    assert {text for group in (known, unseen) for x in group.values() for text in x} == set(texts)


def test_unseen_captions_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no unseen_captions.jsonl; prepare the corpus again"):
        read_unseen(tmp_path)
    (tmp_path / "unseen_captions.jsonl").write_text('{"id": "a", "captions": ["b"]}\n')
    with pytest.raises(ValueError, match=r'Line 1 of .* needs "text" and "label"'):
        read_unseen(tmp_path)
