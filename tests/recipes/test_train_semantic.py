"""The semantic recipe: our composition reads captions, AudioLM's has no repeats."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lm_audio.conditioners.text import OwnTextEncoder
from lm_audio.data.shards import Shards, write_shard
from lm_audio.families.duet.stages import duet
from lm_audio.networks import presets
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.saving.stage_folder import read_stage, write_stage
from lm_audio.training.samples import sample_tokens
from lm_audio.training.text import own_text

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 30


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_semantic")


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, token_shards: Path, codec_folder: Path) -> Any:
    return replace(
        recipe.PRESETS["tiny"],
        data=(token_shards,),
        codec=codec_folder,
        steps=STEPS,
        context_seconds=1.0,
        tokens_per_batch=200,
    )


@pytest.fixture(scope="module", params=["duet", "audiolm"])
def run(
    request: pytest.FixtureRequest,
    recipe: ModuleType,
    tiny: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, list[float]]:
    """The composition, where its run is, and the losses."""
    out = tmp_path_factory.mktemp("semantic")
    return request.param, out, recipe.main(replace(tiny, composition=request.param, out=out))


def test_the_loss_after_five_steps_is_pinned_and_it_falls(
    run: tuple[str, Path, list[float]],
) -> None:
    composition, _, losses = run
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx({"duet": 1.33822, "audiolm": 1.90742}[composition], rel=5e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_stage_that_is_written_makes_semantic_tokens(
    run: tuple[str, Path, list[float]],
) -> None:
    composition, out, _ = run
    stage = read_stage(out / "stage")
    assert stage.token_kind == "semantic"
    assert stage.conditions == (("text",) if composition == "duet" else ())
    tokens = sample_tokens(stage, num_frames=2 * stage.context, seed=0)
    assert 0 <= tokens.min() <= tokens.max() < 64
    if composition == "audiolm":
        assert (tokens[:, 1:] != tokens[:, :-1]).all()


def test_samples_are_logged_as_lines_of_tokens(run: tuple[str, Path, list[float]]) -> None:
    log = EventAccumulator(str(run[1] / "log"))
    log.Reload()
    (event,) = log.Tensors("sample 0/text_summary")
    tokens = event.tensor_proto.string_val[0].decode().split()
    assert all(0 <= int(token) < 64 for token in tokens)
    assert len(tokens) == read_stage(run[1] / "stage").context
    assert log.Tags()["audio"] == []


def test_samples_are_heard_through_an_acoustic_stage(
    recipe: ModuleType, tiny: Any, token_shards: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    shape = presets.tiny().transformer
    shards = Shards(token_shards)
    text = own_text(shards, recipe.SHAPES["tiny"][1], vocab_size=4000)
    _, acoustic = duet(
        semantic=shape,
        acoustic=shape,
        text=text,
        num_semantic_tokens=64,
        semantic_rate=Fraction(25),
        num_codebooks=4,
        codebook_size=64,
        frame_rate=Fraction(50),
    )
    write_stage(acoustic, tmp_path / "acoustic" / "stage")
    settings = {"steps": 1, "context_seconds": 0.2, "acoustic": tmp_path / "acoustic"}
    recipe.main(replace(tiny, out=tmp_path, **settings))
    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    assert log.Tags()["audio"] == ["sample 0", "sample 1", "sample 2"]
    with pytest.raises(ValueError, match="64 tokens and the renderer takes 25 of 1024"):
        recipe.main(replace(tiny, out=tmp_path / "other", codec=CODEC_FOLDER, **settings))


def test_the_rate_without_repeats_is_that_of_the_data(
    recipe: ModuleType, tiny: Any, token_shards: Path
) -> None:
    shards = Shards(token_shards)
    rows = [shards.read(index, "semantic")[0].tolist() for index in range(len(shards))]
    left = sum(len(list(groupby(row))) for row in rows)
    expected = 25 * left / sum(map(len, rows))
    assert 1 < expected < 24
    assert float(recipe.rate_without_repeats(shards)) == pytest.approx(expected, rel=1e-3)
    stage = recipe.build(replace(tiny, composition="audiolm", context_seconds=30.0), shards)
    assert stage.context == pytest.approx(30 * expected, abs=1)
    assert stage.keep == stage.context // 2


def test_our_stage_learns_the_words_of_the_captions(
    recipe: ModuleType, tiny: Any, token_shards: Path
) -> None:
    stage = recipe.build(tiny, Shards(token_shards))
    encoder = stage.conditioners["text"].encoder
    assert isinstance(encoder, OwnTextEncoder)
    tokens = encoder.tokenizer.encode(["plucked strings"]).tokens
    assert tokens.shape[1] < len("plucked strings")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"composition": "audiolm", "acoustic": Path("runs")}, "--acoustic has no effect"),
        ({"composition": "audiolm", "t5": "t5-small"}, "--t5 has no effect"),
    ],
)
def test_what_audiolm_does_not_take_is_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.main(replace(tiny, out=tmp_path, **changes))


def test_shards_without_semantic_tokens_are_a_mistake(
    recipe: ModuleType, tiny: Any, token_shards: Path, tmp_path: Path
) -> None:
    for split in ("train", "held_out"):
        shards = Shards(token_shards, split)
        examples = [
            replace(example, streams={"acoustic": example.streams["acoustic"]})
            for example in shards
        ]
        streams = {"acoustic": shards.streams["acoustic"]}
        write_shard(tmp_path / f"{split}-00000.safetensors", examples, streams)
    with pytest.raises(ValueError, match="The shards have acoustic and no semantic tokens"):
        recipe.main(replace(tiny, data=(tmp_path,), out=tmp_path))
