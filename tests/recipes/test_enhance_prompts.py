"""Sounds get the captions of their kind, and mixtures sound as their captions say."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import ClapFeatureExtractor

from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.manifest import (
    SPLITS,
    conditions_of,
    group_of,
    make_cut,
    read_cut_audio,
    read_cuts,
    write_cuts,
)
from lm_audio.data.synthetic_shards import CAPTIONS
from tests.lm_audio.families.make_an_audio.conftest import randomise, tokenizer
from tests.lm_audio.families.make_an_audio.test_prompts import clap_model


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("enhance_prompts")


@pytest.fixture(scope="module")
def run(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("enhanced")
    counts = recipe.main(replace(recipe.PRESETS["tiny"], out=out))
    assert sum(counts.values()) == 48  # 24 sounds and as many mixtures
    return out


def texts(out: Path) -> dict[str, list[str]]:
    return {
        cut.id: conditions_of(cut)["text"]  # type: ignore[misc]
        for split in SPLITS
        for cut in read_cuts(out, split)
    }


def test_sounds_without_captions_get_those_of_their_kind(run: Path) -> None:
    found = {name: x for name, x in texts(run).items() if not name.startswith("mixture")}
    assert len(found) == 24
    for name, captions in found.items():
        kind, number = name.split("-")
        assert set(captions) <= set(CAPTIONS[kind])
        assert len(captions) == (3 if int(number) < 12 else 2)


def test_mixtures_stay_in_the_split_of_their_sounds(run: Path) -> None:
    for split in SPLITS:
        cuts = list(read_cuts(run, split))
        names = {group_of(cut) for cut in cuts if not cut.id.startswith("mixture")}
        mixed = [cut for cut in cuts if cut.id.startswith("mixture")]
        assert mixed
        for cut in mixed:
            assert f"-{split}-" in cut.id
            assert group_of(cut) in names
            assert read_cut_audio(cut).samples.abs().max() <= 0.91
    notice = (run / "LICENCES.md").read_text()
    assert "the licences of all of them apply" in notice


def test_captions_of_mixtures_name_different_sounds(recipe: ModuleType, run: Path) -> None:
    kinds = {text: kind for kind, captions in CAPTIONS.items() for text in captions}
    every = [template for way in recipe.TEMPLATES.values() for template in way]
    patterns = [
        re.compile(re.sub(r"\\{\d\\}", f"({'|'.join(kinds)})", re.escape(template)))
        for template in every
    ]
    for name, captions in texts(run).items():
        if name.startswith("mixture"):
            (text,) = captions
            found = next(match for one in patterns if (match := one.fullmatch(text)))
            named = [kinds[inner] for inner in found.groups()]
            assert len(set(named)) == len(named)


def test_the_same_command_makes_the_same_corpus(
    recipe: ModuleType, run: Path, tmp_path: Path
) -> None:
    recipe.main(replace(recipe.PRESETS["tiny"], out=tmp_path))
    for name in ("train.jsonl.gz", "held_out.jsonl.gz", "audio/mixture-train-000003.flac"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()
    other = tmp_path / "other"
    recipe.main(replace(recipe.PRESETS["tiny"], out=other, seed=1))
    assert texts(other) != texts(tmp_path)


def item(recipe: ModuleType, vector: list[float], captions: list[str] = []) -> Any:  # noqa: B006
    cut = SimpleNamespace(id="x")
    return recipe.Item(cut=cut, split="train", captions=list(captions), vector=torch.tensor(vector))


def test_two_experts_vote(recipe: ModuleType) -> None:
    bank = ["bell", "car", "dog"]
    space = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    config = replace(recipe.PRESETS["tiny"], keep=1, neighbours=1, least_match=0.3)
    sound = [0.8, 0.6]  # matches 0.8, 0.6 and 0.96
    alone = item(recipe, sound)
    assert recipe.distil([alone], bank, space, config) == 1
    assert alone.captions == ["dog"]
    known = item(recipe, [1.0, 0.0], ["bell"])  # similar by 0.8: the bell gets 1.6
    led = item(recipe, sound)
    recipe.distil([known, led], bank, space, config)
    assert led.captions == ["bell"]
    strict = item(recipe, sound)
    assert recipe.distil([known, strict], bank, space, replace(config, least_match=0.9)) == 0
    assert strict.captions == []


def test_sounds_follow_each_other_or_are_mixed_at_their_level(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(1, 4000), 0.01 * torch.randn(1, 1000)
    row = recipe.in_sequence([first, second], fade=10)
    assert row.shape == (1, 5000)
    assert row[0, 3999] == 0
    assert row[0, 4000] == 0  # faded on both sides
    assert row[:, 4100:].std() / row[:, 100:3900].std() == pytest.approx(1, abs=0.05)
    mixed = recipe.at_once([first, second], level=-12.0)
    assert mixed.shape == (1, 4000)
    even = first / first.square().mean().sqrt()
    scale = float((mixed * even).mean())
    rest = mixed - scale * even
    assert 20 * torch.log10(rest.std() / scale) == pytest.approx(-12, abs=0.5)
    assert recipe.at_once([first, second], level=0.0)[:, 1000:].std() > 0


def test_parts_of_files_and_their_conditions_are_kept(recipe: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    write_audio(path, torch.linspace(-0.5, 0.5, 16_000)[None], 16_000)
    whole = make_cut("x", path, info=audio_info(path), conditions={"label": "a"}, group="g")
    part = whole.truncate(offset=0.25, duration=0.5)
    given = recipe.Item(cut=part, split="train", captions=["b", "c"], vector=torch.zeros(1))
    cut = recipe.with_captions(given)
    assert conditions_of(cut) == {"text": ["b", "c"], "label": "a"}
    assert group_of(cut) == "g"
    expected = read_audio(path, start=0.25, duration=0.5).samples
    assert torch.equal(read_cut_audio(cut).samples, expected)
    assert conditions_of(part) == {"label": "a"}


def test_clap_embeds_the_sounds_of_other_corpora(recipe: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clap = clap_model()
    randomise(clap)
    clap.save_pretrained(tmp_path / "clap")
    tokenizer().save_pretrained(tmp_path / "clap")
    ClapFeatureExtractor(feature_size=8, max_length_s=1, truncation="rand_trunc").save_pretrained(
        tmp_path / "clap"
    )
    cuts = []
    for number in range(4):
        path = tmp_path / "sounds" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        write_audio(path, 0.1 * torch.randn(1, 8000), 16_000)
        texts_of: dict[str, Any] = {"text": ["a dog barks"]} if number == 0 else {}
        cuts.append(make_cut(str(number), path, info=audio_info(path), conditions=texts_of))
    write_cuts(tmp_path / "sounds", cuts, held_out=0.0)
    (tmp_path / "more.txt").write_text("rain on tin\n\nwind\n")
    config = recipe.Config(
        data=(tmp_path / "sounds",), clap=str(tmp_path / "clap"), captions=tmp_path / "more.txt",
        out=tmp_path / "out", least_match=-1.0, mixtures=0.0, keep=1, neighbours=1,
    )  # fmt: skip
    recipe.main(config)
    space = recipe.Clap(tmp_path / "clap")
    bank = ["a dog barks", "rain on tin", "wind"]
    vectors = space.embed_texts(bank)
    sounds = {cut.id: recipe.embed(space, cut) for cut in read_cuts(tmp_path / "sounds", "train")}
    for name, found in texts(tmp_path / "out").items():
        votes = vectors @ sounds[name]
        votes[0] += sounds["0"] @ sounds[name]
        assert found == (["a dog barks"] if name == "0" else [bank[int(votes.argmax())]])


def test_mistakes_are_named(recipe: ModuleType, tmp_path: Path) -> None:
    tiny = replace(recipe.PRESETS["tiny"], out=tmp_path)
    with pytest.raises(ValueError, match=r"needs data\. Pass --data with a prepared corpus"):
        recipe.main(replace(tiny, preset="default"))
    path = tmp_path / "x.wav"
    write_audio(path, torch.zeros(1, 8000), 16_000)
    write_cuts(tmp_path / "plain", [make_cut("x", path, info=audio_info(path), conditions={})])
    plain = replace(tiny, data=(tmp_path / "plain",))
    with pytest.raises(ValueError, match="There are no captions to choose from"):
        recipe.main(plain)
    with pytest.raises(ValueError, match=r"Could not read .*none.txt as UTF-8 text"):
        recipe.main(replace(plain, captions=tmp_path / "none.txt"))
    (tmp_path / "bank.txt").write_text("rain\n")
    with pytest.raises(ValueError, match="needs --clap with the folder or hub id of a CLAP model"):
        recipe.main(replace(plain, preset="default", captions=tmp_path / "bank.txt"))
    with pytest.raises(ValueError, match="least_match must be from -1 to 1"):
        recipe.Config(least_match=2.0)
    with pytest.raises(ValueError, match="mixtures must be at least 0"):
        recipe.Config(mixtures=-1.0)
