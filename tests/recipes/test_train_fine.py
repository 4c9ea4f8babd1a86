"""The fine recipe: its stage, and AudioLM made whole of all three."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lm_audio
from audio_tokenizers.semantic.features import save_features
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer, save_feature_tokenizer
from lm_audio.data.shards import Shards, write_shard
from lm_audio.data.synthetic import demo_clip
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.saving.stage_folder import read_stage

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 30

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("train_fine")


@pytest.fixture(scope="module")
def semantic_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one of 64 tokens with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("semantic_tokenizer")
    model = MaskedAudioModel(tiny_masked_model()).eval()
    codebook = KMeansCodebook(
        centroids=torch.randn(64, model.width),
        mean=torch.zeros(model.width),
        std=torch.ones(model.width),
        source=FeatureSource(model=model.identity, layer=1),
    )
    save_features(model, folder / "model")
    save_feature_tokenizer(FeatureTokenizer(model, codebook), folder, model="model")
    return folder


@pytest.fixture(scope="module")
def shards(
    recipe: ModuleType,
    semantic_tokenizer: Path,
    token_shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The shared ones, as if this tokenizer had made their semantic tokens."""
    folder = tmp_path_factory.mktemp("shards")
    identity = recipe.load_feature_tokenizer(semantic_tokenizer).identity
    for split in ("train", "held_out"):
        made = Shards(token_shards, split)
        streams = made.streams | {"semantic": replace(made.streams["semantic"], identity=identity)}
        write_shard(folder / f"{split}-00000.safetensors", list(made), streams)
    return folder


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, shards: Path, codec_folder: Path) -> Any:
    return replace(
        recipe.PRESETS["tiny"],
        data=(shards,),
        codec=codec_folder,
        steps=STEPS,
        context_seconds=0.2,
        tokens_per_batch=400,
    )


@pytest.fixture(scope="module")
def earlier(
    load_recipe: LoadRecipe,
    shards: Path,
    codec_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The folders of the two other stages, hardly trained."""
    folders = {}
    for name, special in (("semantic", {"composition": "audiolm"}), ("coarse", {})):
        recipe = load_recipe(f"train_{name}")
        folders[name] = tmp_path_factory.mktemp(name)
        settings = {"data": (shards,), "codec": codec_folder, "out": folders[name], "steps": 1}
        recipe.main(replace(recipe.PRESETS["tiny"], context_seconds=0.4, **settings, **special))
    return folders


@pytest.fixture(scope="module")
def run(
    recipe: ModuleType,
    tiny: Any,
    earlier: dict[str, Path],
    semantic_tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("fine")
    config = replace(tiny, out=out, semantic_tokenizer=semantic_tokenizer, **earlier)
    return out, recipe.main(config)


def test_the_loss_after_five_steps_is_pinned_and_it_falls(run: tuple[Path, list[float]]) -> None:
    losses = run[1]
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx(2.92659, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_stage_makes_the_codebooks_behind_the_coarse_ones(
    run: tuple[Path, list[float]],
) -> None:
    stage = read_stage(run[0] / "stage")
    assert (stage.num_codebooks, stage.first_codebook) == (2, 2)
    assert (stage.context, stage.keep) == (10, 0)


def test_the_whole_model_makes_and_continues_sound(run: tuple[Path, list[float]]) -> None:
    model = lm_audio.load(run[0] / "model")
    assert list(model.stages) == ["semantic", "coarse", "fine"]
    clip = model.generate(duration=0.7, seed=1)
    assert clip.samples.shape == (1, int(0.7 * 24_000))
    assert clip.samples.abs().max() > 0
    prompt = torch.from_numpy(demo_clip(sample_rate=24_000)[None, :12_000])
    longer = model.continue_from((prompt, 24_000), duration=0.25, seed=1)
    assert longer.samples.shape == (1, 12_000 + 6000)
    assert torch.equal(longer.samples[:, :12_000], prompt)


def test_half_a_model_is_a_mistake(
    recipe: ModuleType, tiny: Any, earlier: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="A whole model needs both other stages"):
        recipe.main(replace(tiny, out=tmp_path, coarse=earlier["coarse"]))


def test_stages_that_do_not_fit_are_refused_before_training(
    recipe: ModuleType, tiny: Any, earlier: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="The stages make 5 codebooks and the renderer takes 4"):
        recipe.main(replace(tiny, out=tmp_path, num_coarse=1, **earlier))
    assert not (tmp_path / "checkpoints").exists()


def test_another_semantic_tokenizer_is_a_mistake(
    recipe: ModuleType,
    tiny: Any,
    earlier: dict[str, Path],
    semantic_tokenizer: Path,
    token_shards: Path,
    tmp_path: Path,
) -> None:
    config = replace(tiny, out=tmp_path, semantic_tokenizer=semantic_tokenizer, **earlier)
    with pytest.raises(ValueError, match=r"--semantic-tokenizer is .* made by made up; give that"):
        recipe.main(replace(config, data=(token_shards,)))


def test_a_codec_that_did_not_make_the_tokens_is_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"--codec is .* and the data's tokens were made by"):
        recipe.main(replace(tiny, out=tmp_path, codec=CODEC_FOLDER))


def test_all_codebooks_coarse_is_a_mistake(recipe: ModuleType, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--num-coarse is 4 and the shards have 4 codebooks"):
        recipe.main(replace(tiny, out=tmp_path, num_coarse=4))
