"""The codebook recipe: features of any model become a tokenizer, and it says how good it is."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans

from audio_tokenizers.semantic.masked_model import MaskedAudioModel, save_masked_model, tiny
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.data.shards import Shards

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("train_semantic_codebook")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with a tiny masked model."""
    torch.manual_seed(0)
    save_masked_model(MaskedAudioModel(tiny()), tmp_path / "masked")
    return str(tmp_path / "masked")


def config(recipe: ModuleType, data: Path, out: Path, **changes: Any) -> Any:
    settings = {"num_clusters": 8, "seconds": 5.0, **changes}
    return replace(recipe.PRESETS["tiny"], data=(data,), out=out, **settings)


def test_the_tiny_preset_leaves_a_tokenizer_that_can_be_moved(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made" / "features-of-a-killed-run").mkdir(parents=True)
    report = recipe.main(replace(recipe.PRESETS["tiny"], out=tmp_path / "made"))
    (tmp_path / "made").rename(tmp_path / "moved")
    tokenizer = load_feature_tokenizer(tmp_path / "moved")
    assert tokenizer.num_tokens == 32
    assert tokenizer.encode(torch.zeros(1, 1, 24_000)).shape == (1, 1, 25)
    assert 0 < report.inertia < report.held_out_inertia < 0.5
    assert 1 < report.held_out_perplexity <= 32
    assert report.held_out_tokens_per_second < report.frame_rate == 25
    written = json.loads((tmp_path / "moved" / "report.json").read_text())
    assert written["layer"] == 1
    assert written["num_frames"] == report.num_frames == 15 * 2 * 25
    assert "Next: python recipes/tokenize_dataset.py --semantic" in capsys.readouterr().out
    assert not list((tmp_path / "moved").glob("features-*"))


def test_the_inertia_is_as_small_as_that_of_full_k_means(
    recipe: ModuleType, sounds: Path, model: str, tmp_path: Path
) -> None:
    report = recipe.main(config(recipe, sounds, tmp_path, model=model, layer=2, num_passes=20))
    tokenizer = load_feature_tokenizer(tmp_path)
    assert tokenizer.codebook.source.layer == 2
    shards = Shards(sounds)
    clips = [shards.read(i, "samples").float()[None] / 2**15 for i in range(len(shards))]
    rows = torch.cat([tokenizer.extractor.features(clip, 2)[0] for clip in clips])
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    full = KMeans(8, n_init=10, random_state=0).fit(rows.numpy())
    assert report.num_frames == len(rows) == 150
    assert (
        full.inertia_ / rows.numel() - 1e-6 < report.inertia < 1.25 * full.inertia_ / rows.numel()
    )


def test_pooling_halves_the_rate_and_the_same_seed_gives_the_same_tokens(
    recipe: ModuleType, sounds: Path, model: str, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for out in folders:
        report = recipe.main(config(recipe, sounds, out, model=model, pooling=2))
    assert report.frame_rate == 12.5
    identities = [load_feature_tokenizer(out).identity for out in folders]
    assert identities[0] == identities[1]


def test_features_without_standardisation_keep_their_scale(
    recipe: ModuleType, sounds: Path, model: str, tmp_path: Path
) -> None:
    report = recipe.main(config(recipe, sounds, tmp_path, model=model, standardize=False))
    assert torch.equal(load_feature_tokenizer(tmp_path).codebook.std, torch.ones(32))
    assert 0 < report.inertia < 0.5


def test_hours_limit_what_is_heard_and_clips_too_short_are_left_out(recipe: ModuleType) -> None:
    clips = [
        recipe.Recording(kind="x", name=str(n), samples=torch.zeros(size).short().numpy())
        for n, size in enumerate([8_000] * 5 + [10])
    ]
    settings = replace(recipe.PRESETS["tiny"], hours=2.5 / 3600, seconds=1.0)
    assert len(list(recipe.pieces(clips, settings, 8_000))) == 3
    settings = replace(settings, hours=1.0, seconds=0.5)
    lengths = [piece.shape[2] for piece in recipe.pieces(clips, settings, 8_000)]
    assert lengths == [4_000] * 5


def test_a_model_of_transformers_becomes_a_tokenizer(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    from lm_audio.data.shards import Example, Stream, shard_path, write_shard

    settings = HubertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    torch.manual_seed(0)
    HubertModel(settings).save_pretrained(tmp_path / "hubert")
    preparation: Any = Wav2Vec2FeatureExtractor
    preparation(do_normalize=True).save_pretrained(tmp_path / "hubert")
    stream = Stream(rate=Fraction(16_000), num_codebooks=1, num_tokens=None, identity="sounds")
    for split in ("train", "held_out"):
        shards = Shards(sounds, split)
        examples = [
            Example(id=name, streams={"samples": shards.read(i, "samples")}, conditions={})
            for i, name in enumerate(shards.ids)
        ]
        write_shard(shard_path(tmp_path / "slow", split, 0), examples, {"samples": stream})
    out = tmp_path / "out"
    recipe.main(config(recipe, tmp_path / "slow", out, model=str(tmp_path / "hubert"), layer=2))
    tokens = load_feature_tokenizer(out).encode(torch.randn(1, 1, 16_000))
    assert tokens.shape == (1, 1, 49)


def test_a_model_of_fairseq2_names_the_extra_where_it_is_missing(
    recipe: ModuleType, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fairseq2", None)
    settings = config(recipe, sounds, tmp_path / "out", model="fairseq2:wav2vec2_base")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lm-audio\[parity\]'"):
        recipe.main(settings)


def test_mistakes_are_named(recipe: ModuleType, sounds: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Got layer 3; this model has layers 0 to 2"):
        recipe.main(config(recipe, sounds, tmp_path, model=model, layer=3))
    with pytest.raises(ValueError, match=r"No model for the preset 'small'; pass a folder or hub"):
        recipe.main(config(recipe, sounds, tmp_path, preset="small"))
    with pytest.raises(ValueError, match=r"No training data for the preset 'small'; pass"):
        recipe.read_corpus(replace(recipe.PRESETS["small"], out=tmp_path), 24_000)
