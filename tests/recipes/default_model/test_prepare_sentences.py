"""Sentences for a text encoder: those of WordNet, of templates and of captions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from audio_tokenizers.audio_files import AudioInfo
from lm_audio.data.manifest import make_cut, write_cuts

NOUNS = """\
  1 a line of the licence
00000001 06 n 02 hand_bell 0 Glocke 0 001 @ 00000002 n 0000 | a bell held in the hand; "she rang it"
00000002 09 n 01 idea 0 000 | the content of cognition; something that you think of
00000003 05 n 01 Canis 0 000 | type genus of the dogs
"""
VERBS = (
    '00000004 39 v 02 yap 0 bark(p) 0 000 01 + 02 00 | bark in a high tone; "dogs yap all day"\n'
)
ADJECTIVES = "00000005 00 a 01 shrill 0 000 | having a high pitch\n"


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("default_model/prepare_sentences")


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    files = {"data.noun": NOUNS, "data.verb": VERBS, "data.adj": ADJECTIVES}
    for name, text in {**files, "verb.exc": "yapping yap\n", "cntlist.rev": ""}.items():
        (folder / name).write_text(text)
    return folder


def test_wordnet_gives_words_that_sound_and_whole_sentences(
    recipe: ModuleType, wordnet: Path
) -> None:
    words = recipe.read_wordnet(wordnet, longest=6)
    assert set(words.nouns) == {"hand bell"}
    assert len(words.nouns) == 4, "what sounds stands more often than other words"
    assert set(words.verbs) == {"yap", "bark"}
    assert words.sentences == [
        "a bell held in the hand",
        "she rang it",
        "the content of cognition",
        "something that you think of",
        "bark in a high tone",
        "dogs yap all day",
        "having a high pitch",
    ]
    (wordnet / "cntlist.rev").write_text("hand_bell%1:06:00:: 1 3\n")
    assert len(recipe.read_wordnet(wordnet, longest=6).nouns) == 16


def test_the_file_has_captions_pairs_of_them_and_templates(
    recipe: ModuleType, wordnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = AudioInfo(sample_rate=8000, num_samples=8000, num_channels=1, format="WAV")
    cuts = [
        make_cut(text, f"{text}.wav", info=info, conditions={"text": [text, f"the {text}"]})
        for text in ("rain", "wind", "hail")
    ]
    write_cuts(tmp_path / "corpus", cuts, held_out=0.3)
    settings = {"wordnet": wordnet, "corpora": (tmp_path / "corpus",)}
    config = replace(recipe.PRESETS["tiny"], out=tmp_path / "sentences.txt", **settings)
    sentences = recipe.main(config)
    assert (tmp_path / "sentences.txt").read_text().splitlines() == sentences
    assert len(set(sentences)) == len(sentences)
    assert sum(text in sentences for text in ("rain", "wind", "hail")) == 2, "no held-out caption"
    assert any(" followed by " in text for text in sentences)
    assert {"she rang it", "a shrill hand bell"} <= set(sentences)
    assert recipe.main(config) == sentences
    assert "Next: recipes/train_text_encoder.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "does", "doing"),
    [
        ("bark", "barks", "barking"),
        ("cry", "cries", "crying"),
        ("hiss", "hisses", "hissing"),
        ("make", "makes", "making"),
        ("tie", "ties", "tying"),
        ("canoe", "canoes", "canoeing"),
        ("play", "plays", "playing"),
        ("yap", "yaps", "yapping"),
    ],
)
def test_verbs_are_inflected(recipe: ModuleType, verb: str, does: str, doing: str) -> None:
    assert recipe.third_person(verb) == does
    assert recipe.participle(verb, {"yap": "yapping"}) == doing


def test_without_wordnet_there_is_only_the_tiny_preset(recipe: ModuleType, tmp_path: Path) -> None:
    tiny = replace(recipe.PRESETS["tiny"], out=tmp_path / "sentences.txt")
    assert "the cry of an animal" in recipe.main(tiny)
    with pytest.raises(ValueError, match="No WordNet; pass the folder of its data files as"):
        recipe.main(replace(recipe.PRESETS["default"], out=tmp_path / "sentences.txt"))
    with pytest.raises(
        ValueError, match=r"cntlist\.rev does not exist; pass the folder of WordNet"
    ):
        recipe.main(replace(tiny, wordnet=tmp_path))
