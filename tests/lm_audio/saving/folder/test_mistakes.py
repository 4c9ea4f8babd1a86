"""Files and models that do not fit: one sentence says why, and nothing is lost."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.text import (
    T5Encoder,
    TextConditioner,
)
from lm_audio.generation.lm_stage import LMStage
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.saving.folder import load_model


def load_pipeline(folder: Path, **settings: Any) -> AudioPipeline:
    return AudioPipeline(load_model(folder, **settings))


def test_a_failed_save_leaves_what_was_there(small: AudioPipeline, tmp_path: Path) -> None:
    small.save(tmp_path / "model")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with torch.no_grad():
        small.stages["acoustic"].model.heads.weight[0] = 1e6
    with pytest.raises(ValueError, match=r"heads.weight has values that overflow float16"):
        small.save(tmp_path / "model", half=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_anything_else_is_not_replaced(small: AudioPipeline, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    small.save(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    for name, other in (("empty", "notes.txt"), ("other", "config.json")):
        with pytest.raises(ValueError, match=rf"contains {other}, not part of an lm-audio model"):
            small.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"notes.txt is a file. Choose a folder"):
        small.save(tmp_path / "empty" / "notes.txt")


def test_every_file_that_is_missing_or_truncated_is_named(
    make_duet: Callable[..., AudioPipeline],
    semantic_tokenizer: FeatureTokenizer,
    t5_folder: Path,
    own_text: Callable[[int], TextConditioner],
    tmp_path: Path,
) -> None:
    pipeline = make_duet(own_text)
    t5 = TextConditioner(T5Encoder.load(t5_folder), 32)
    pipeline.stages["semantic"].conditioners["text"] = t5
    pipeline.model = replace(pipeline.model, semantic_tokenizer=semantic_tokenizer)
    folder = tmp_path / "model"
    pipeline.save(folder)
    names = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    assert len(names) > 10
    for path in names:
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(ValueError, match=rf"{path} has .* bytes, expected {len(content)}\."):
            load_pipeline(folder)
        path.unlink()
        with pytest.raises(ValueError, match=rf"{path} is missing. Download the model again"):
            load_pipeline(folder)
        path.write_bytes(content)
    load_pipeline(folder)
    content = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"No readable config.json"):
        load_pipeline(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), r"has format 2, but this version of lm-audio reads 1\."),
        (lambda c: c.update(model_type="bert"), r"does not describe an lm-audio model"),
        (
            lambda c: c["stages"][0].update(name="../model"),
            r"Invalid stage name '../model'",
        ),
        (lambda c: c["stages"][0].update(name="codec"), r"Invalid stage name 'codec'"),
        (lambda c: c["stages"][0].update(frame_rate="1/0"), r"cannot build .*: ZeroDivisionError"),
        (lambda c: c["stages"][0].update(extra=1), r"cannot build .*: TypeError: .*'extra'"),
        (lambda c: c["stages"][0].pop("pattern"), r"cannot build .*: KeyError: 'pattern'"),
        (lambda c: c["stages"][0].update(context="long"), r"cannot build .*: TypeError"),
        (lambda c: c.update(rendered=["fine"]), r"Unknown output stage 'fine'"),
        (
            lambda c: c["stages"][0]["conditioners"]["class"].update(type="os.system"),
            r"Unknown type 'os.system' of condition 'class'. Known types: aligned_signal,",
        ),
        (
            lambda c: c["stages"][0]["conditioners"]["class"].update(labels=["a", "b", "c"]),
            r"weight shapes that do not match config.json: conditioners.class.embedding.weight",
        ),
    ],
)
def test_a_config_that_does_not_fit_gets_one_sentence(
    small: AudioPipeline,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    small.save(tmp_path / "model")
    edit(tmp_path / "model", change)
    with pytest.raises(ValueError, match=message):
        load_pipeline(tmp_path / "model")


def test_weights_other_than_those_of_the_model_are_named(
    small: AudioPipeline, tmp_path: Path
) -> None:
    small.save(tmp_path / "model")
    path = tmp_path / "model" / "acoustic" / "model.safetensors"
    weights = load_file(path)
    weights["model.more"] = weights.pop("model.heads.weight")
    save_file(weights, path)
    size = path.stat().st_size
    edit(tmp_path / "model", lambda c: c["files"].update({"acoustic/model.safetensors": size}))
    with pytest.raises(ValueError, match=r"unexpected weights: model.heads.weight, model.more"):
        load_pipeline(tmp_path / "model")


@pytest.mark.parametrize("num_layers", [3, 10**12])
def test_a_size_without_the_weights_for_it_is_refused_before_it_takes_memory(
    small: AudioPipeline, tmp_path: Path, num_layers: int
) -> None:
    small.save(tmp_path / "model")
    path = tmp_path / "model" / "acoustic" / "config.json"
    config = json.loads(path.read_text())
    config["transformer"]["num_layers"] = num_layers
    path.write_text(json.dumps(config))
    size = path.stat().st_size
    edit(tmp_path / "model", lambda c: c["files"].update({"acoustic/config.json": size}))
    with pytest.raises(ValueError, match=r"blocks.2.attention.input|fewer than 10+ layers"):
        load_pipeline(tmp_path / "model")


def test_what_cannot_be_saved_is_refused_by_its_name(small: AudioPipeline, tmp_path: Path) -> None:
    class OtherStage(LMStage):
        pass

    class Other(LabelConditioner):
        pass

    class OtherText:
        dim = 32

    (stage,) = small.stages.values()
    given = {field.name: getattr(stage, field.name) for field in fields(LMStage)}
    conditioners = {
        "an Other, which cannot": (Other(["a"], 32), "prepend"),
        "an OtherText, which cannot": (TextConditioner(OtherText(), 32), "cross"),
    }
    wrong = {"an OtherStage, which cannot": OtherStage(**given)}
    for what, (conditioner, fuse) in conditioners.items():
        made = Conditioners({"x": conditioner}, {"x": fuse})
        wrong[what] = LMStage(**{**given, "conditioners": made})
    for what, one in wrong.items():
        pipeline = AudioPipeline(Model([one], small.renderer))
        with pytest.raises(ValueError, match=what.removeprefix("an ")):
            pipeline.save(tmp_path / "model")
    small.model = replace(small.model, semantic_tokenizer=OtherText())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Only a FeatureTokenizer can .* got OtherText"):
        small.save(tmp_path / "model")
    object.__setattr__(small.model, "renderer", OtherText())
    with pytest.raises(ValueError, match=r"can be saved, got OtherText"):
        small.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["acoustic/model.safetensors", "codec/model.safetensors", "codec/config.json"]
)
def test_a_file_that_is_neither_there_nor_listed_gets_one_sentence(
    small: AudioPipeline, tmp_path: Path, name: str
) -> None:
    small.save(tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["files"].pop(name))
    (tmp_path / "model" / name).unlink()
    part = name.split("/")[0]
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/model/{part}( .*No such file|/?.* has no EnCodec)"
    ):
        load_pipeline(tmp_path / "model")
