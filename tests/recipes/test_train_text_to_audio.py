"""The text-to-audio recipe: any pattern, labels, and stereo by a mono codec."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lm_audio
from lm_audio.data.shards import Shards, write_shard
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.training.stage_batches import Dropout, StageBatches

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 30


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_text_to_audio")


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, token_shards: Path, codec_folder: Path) -> Any:
    return replace(
        recipe.PRESETS["tiny"],
        data=(token_shards,),
        codec=codec_folder,
        steps=STEPS,
        context_seconds=0.5,
        tokens_per_batch=800,
    )


@pytest.fixture(scope="module")
def stereo_shards(
    token_shards: Path, codec_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The shared ones as both channels, as recipes/tokenize_dataset.py --channels 2 has them."""
    folder = tmp_path_factory.mktemp("stereo")
    tokenizers = Tokenizers(TokenizingConfig(codec=str(codec_folder), num_channels=2))
    for split in ("train", "held_out"):
        examples = [
            replace(
                each, streams={"acoustic": each.streams["acoustic"].repeat_interleave(2, dim=0)}
            )
            for each in Shards(token_shards, split)
        ]
        write_shard(folder / f"{split}-00000.safetensors", examples, tokenizers.streams)
    return folder


@pytest.fixture(scope="module")
def run(
    recipe: ModuleType, tiny: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("text_to_audio")
    return out, recipe.main(replace(tiny, out=out, labels=("label",)))


def test_the_loss_after_five_steps_is_pinned_and_it_falls(run: tuple[Path, list[float]]) -> None:
    losses = run[1]
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx(3.15567, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_model_makes_sound_of_text_and_of_labels(run: tuple[Path, list[float]]) -> None:
    model = lm_audio.load(run[0] / "model")
    assert model.conditions == ("text", "label")
    clips = [
        model.generate("a bird sings", duration=0.8, seed=1, conditions={"label": label})
        for label in ("chirp", "rain")
    ]
    assert clips[0].samples.shape == (1, int(0.8 * 24_000))
    assert not torch.equal(clips[0].tokens, clips[1].tokens)
    assert model.generate(duration=0.2, seed=1).samples.shape == (1, 4800)
    with pytest.raises(ValueError, match="Unknown label 'dog'"):
        model.generate("a dog", duration=0.2, conditions={"label": "dog"})


def test_labels_are_forgotten_apart_from_the_text_and_with_it(
    recipe: ModuleType, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Dropout] = []

    def spy(*given: Any, dropout: Dropout | None, **settings: Any) -> StageBatches:
        found.extend([dropout] if dropout is not None else [])
        return StageBatches(*given, dropout=dropout, **settings)

    monkeypatch.setattr(recipe, "StageBatches", spy)
    settings = {"labels": ("label",), "joint_dropout": 0.3, "label_dropout": 0.4}
    recipe.main(replace(tiny, out=tmp_path, steps=1, **settings))
    assert [(dropout.joint, dropout.each) for dropout in found] == [(0.3, {"label": 0.4})]


@pytest.mark.parametrize(
    ("pattern", "num_streams", "num_steps"),
    [("parallel", 4, 10), ("flattened", 1, 40), ("unrolled", 4, 40), ("coarse_first", 4, 20)],
)
def test_every_pattern_learns_and_makes_sound(
    recipe: ModuleType,
    tiny: Any,
    tmp_path: Path,
    pattern: str,
    num_streams: int,
    num_steps: int,
) -> None:
    settings = {"pattern": pattern, "steps": 2, "context_seconds": 0.2}
    losses = recipe.main(replace(tiny, out=tmp_path, **settings))
    assert losses[1] < losses[0]
    model = lm_audio.load(tmp_path / "model")
    (stage,) = model.stages.values()
    assert stage.pattern.num_streams == num_streams
    assert stage.pattern.layout(10).num_steps == num_steps
    clip = model.generate("rain", duration=0.2, seed=0)
    assert clip.samples.shape == (1, 4800)
    assert 0 <= clip.tokens.min() <= clip.tokens.max() < 64


def test_stereo_by_a_mono_codec_has_twice_the_codebooks(
    recipe: ModuleType, tiny: Any, stereo_shards: Path, tmp_path: Path
) -> None:
    settings = {"channels": 2, "steps": 1, "context_seconds": 0.2}
    recipe.main(replace(tiny, out=tmp_path, data=(stereo_shards,), **settings))
    model = lm_audio.load(tmp_path / "model")
    (stage,) = model.stages.values()
    assert stage.pattern.delays == (0, 0, 1, 1, 2, 2, 3, 3)
    assert model.generate("rain", duration=0.3, seed=0).samples.shape == (2, 7200)


@pytest.mark.parametrize("channels", [None, 2])
def test_shards_of_another_number_of_channels_are_a_mistake(
    recipe: ModuleType,
    tiny: Any,
    token_shards: Path,
    stereo_shards: Path,
    tmp_path: Path,
    channels: int | None,
) -> None:
    data = stereo_shards if channels is None else token_shards
    with pytest.raises(ValueError, match="--codec with --channels is"):
        recipe.main(replace(tiny, out=tmp_path, data=(data,), channels=channels))


def test_fewer_codebooks_than_the_codec_has_are_enough(
    recipe: ModuleType, tiny: Any, token_shards: Path, tmp_path: Path
) -> None:
    for split in ("train", "held_out"):
        shards = Shards(token_shards, split)
        examples = [
            replace(each, streams={"acoustic": each.streams["acoustic"][:2]}) for each in shards
        ]
        streams = {"acoustic": replace(shards.streams["acoustic"], num_codebooks=2)}
        write_shard(tmp_path / f"{split}-00000.safetensors", examples, streams)
    out = tmp_path / "out"
    recipe.main(replace(tiny, data=(tmp_path,), out=out, steps=1, context_seconds=0.2))
    assert lm_audio.load(out / "model").generate("rain", duration=0.2, seed=0).tokens.shape[0] == 2


@pytest.mark.parametrize("name", ["speaker", "text"])
def test_labels_that_the_data_lacks_are_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=f"The data has no labels '{name}'; it has: label"):
        recipe.main(replace(tiny, out=tmp_path, labels=(name,)))


def test_the_tokens_of_another_codec_are_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"--codec with --channels is .* and the data's tokens were made by"
    ):
        recipe.main(replace(tiny, out=tmp_path, codec=CODEC_FOLDER))


def test_the_paper_s_model_has_the_published_shape(
    recipe: ModuleType,
) -> None:
    shape = recipe.SHAPES["paper"][0]
    assert (shape.dim, shape.num_layers, shape.num_heads) == (1536, 48, 24)
    paper = recipe.PRESETS["paper"]
    assert (paper.learning_rate, paper.weight_decay, paper.warmup_steps) == (5e-4, 0.1, 3000)
    assert (paper.schedule, paper.joint_dropout, paper.context_seconds) == ("cosine", 0.1, 10.0)


def test_a_dry_run_counts_the_published_model_and_makes_nothing(
    recipe: ModuleType,
    token_shards: Path,
    codec_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = replace(recipe.PRESETS["paper"], data=(token_shards,), codec=codec_folder)
    assert recipe.main(replace(config, out=tmp_path, dry_run=True)) == []
    assert "million weights are trained" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
