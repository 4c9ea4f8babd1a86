"""What is saved is what is loaded, to the bit."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_audio.clip import Clip
from lm_audio.conditioners.known_prompts import KnownPrompts
from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.conditioners.text import (
    T5Encoder,
    TextConditioner,
)
from lm_audio.families.audiolm.stages import RENDERED
from lm_audio.generation.lm_stage import LMStage
from lm_audio.model import ModelCard
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import DEFAULT_FOLDER
from lm_audio.saving.folder import load_model, save_model
from lm_audio.saving.stage_folder import describe_stage


def load_pipeline(folder: Path, **settings: Any) -> AudioPipeline:
    return AudioPipeline(load_model(folder, **settings))


Make = Callable[..., Any]


def assert_equal(a: Clip | list[Clip], b: Clip | list[Clip]) -> None:
    assert isinstance(a, Clip)
    assert isinstance(b, Clip)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.samples, b.samples)


def weights_of(pipeline: AudioPipeline) -> dict[str, torch.Tensor]:
    return {
        f"{stage.name}.{kind}.{name}": weight
        for stage in pipeline.stages.values()
        for kind, part in (("model", stage.model), ("conditioners", stage.conditioners))
        for name, weight in part.state_dict().items()
    }


def assert_same_weights(a: AudioPipeline, b: AudioPipeline) -> None:
    one, other = weights_of(a), weights_of(b)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name])


def test_our_cascade_comes_back_to_the_bit(
    make_duet: Make,
    own_text: Make,
    tmp_path: Path,
) -> None:
    saved = make_duet(own_text)
    saved.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    assert_same_weights(saved, loaded)
    for text in ("a dog barks", None):
        assert_equal(*(p.generate(text, duration=0.2, seed=3) for p in (saved, loaded)))


def test_audiolm_comes_back_to_the_bit_and_continues_audio(
    three_stages: AudioPipeline,
    tmp_path: Path,
) -> None:
    three_stages.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    assert_same_weights(three_stages, loaded)
    assert loaded.model.output_stages == RENDERED
    assert loaded.semantic_tokenizer is not None
    assert loaded.semantic_tokenizer.identity == three_stages.semantic_tokenizer.identity
    samples = torch.randn(1, 6000) * 0.1
    assert_equal(*(p.generate(duration=0.1, seed=3) for p in (three_stages, loaded)))
    assert_equal(
        *(p.continue_from((samples, 24_000), duration=0.1, seed=3) for p in (three_stages, loaded))
    )


def test_a_stage_comes_back_with_everything_that_it_holds(
    small: AudioPipeline,
    tmp_path: Path,
) -> None:
    small.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    before, after = small.stages["acoustic"], loaded.stages["acoustic"]
    for field in fields(LMStage):
        if field.name not in ("model", "conditioners"):
            assert getattr(before, field.name) == getattr(after, field.name)
    assert before.model.config == after.model.config
    assert before.conditioners.fuse == after.conditioners.fuse
    assert loaded.renderer.identity == small.renderer.identity
    assert not after.model.training
    clips = (p.generate(duration=0.5, seed=3, conditions={"class": "dog"}) for p in (small, loaded))
    assert_equal(*clips)  # longer than a window


def test_a_description_has_every_field_of_a_stage(small: AudioPipeline) -> None:
    described = describe_stage(small.stages["acoustic"])
    stored = {"window_frames": "context", "overlap_frames": "keep", "deduplicated": "repeats"}
    names = {stored.get(field.name, field.name) for field in fields(LMStage)}
    assert described.keys() == names - {"model"}
    assert described["frame_rate"] == "50/1"


def test_a_t5_is_stored_once_and_shared_again(
    make_duet: Make,
    t5_folder: Path,
    tmp_path: Path,
) -> None:
    # Each stage has loaded its own, which are equal.
    saved = make_duet(lambda dim: TextConditioner(T5Encoder.load(t5_folder), dim))
    for stage in saved.stages.values():
        stage.conditioners["text"].encoder.max_length = 7
    saved.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    encoders = {id(stage.conditioners["text"].encoder) for stage in loaded.stages.values()}
    assert len(encoders) == 1
    assert loaded.stages["semantic"].conditioners["text"].encoder.max_length == 7
    assert len(list((tmp_path / "model").rglob("tokenizer.json"))) == 1
    assert_equal(*(p.generate("dog", duration=0.1, seed=3) for p in (saved, loaded)))


def test_a_sentence_encoder_is_stored_once_and_shared_again(
    make_duet: Make, sentence_folder: Path, tmp_path: Path
) -> None:
    # Each stage has loaded its own, which are equal.
    saved = make_duet(lambda dim: TextConditioner(SentenceEncoder.load(sentence_folder), dim))
    saved.save(tmp_path / "model", half=True)
    loaded = load_pipeline(tmp_path / "model", dtype="bfloat16")
    one, other = (stage.conditioners["text"].encoder for stage in loaded.stages.values())
    assert one is other
    assert one.identity == saved.stages["semantic"].conditioners["text"].encoder.identity
    assert len(list((tmp_path / "model").rglob("text.model"))) == 1
    assert loaded.generate("dog", duration=0.1, seed=3).samples.isfinite().all()
    saved.save(tmp_path / "exact")
    exact = load_pipeline(tmp_path / "exact")
    assert_equal(*(p.generate("dog", duration=0.1, seed=3) for p in (saved, exact)))


def test_two_different_t5s_are_refused(
    make_duet: Make,
    t5_folder: Path,
    tmp_path: Path,
) -> None:
    pipeline = make_duet(lambda dim: TextConditioner(T5Encoder.load(t5_folder), dim))
    t5 = pipeline.stages["semantic"].conditioners["text"].encoder
    with torch.no_grad():
        t5.model.shared.weight.add_(1)
    with pytest.raises(ValueError, match=r"can have only one frozen text encoder"):
        pipeline.save(tmp_path / "model")


def test_a_folder_can_be_moved_and_says_what_people_should_know(
    small: AudioPipeline,
    tmp_path: Path,
) -> None:
    known = KnownPrompts(examples={"dog": ["a dog barks"]}, threshold=0.5)
    card = ModelCard(name="Small", licence="CC-BY-NC-4.0", known=known)
    small.model = replace(small.model, card=card)
    small.save(tmp_path / "model")
    moved = (tmp_path / "model").rename(tmp_path / "elsewhere")
    assert load_pipeline(moved).card == small.card
    assert str(tmp_path) not in (moved / "config.json").read_text()


def test_a_loaded_model_knows_its_prompts_without_encoding_them(tmp_path: Path) -> None:
    bundled = load_model(DEFAULT_FOLDER)
    assert bundled.prompt_check is not None
    assert bundled.card.known is not None
    unread = replace(bundled.card, known=replace(bundled.card.known, embeddings=None))
    model = replace(bundled, card=unread)
    assert model.prompt_check is not None
    computed = model.prompt_check.embeddings
    torch.testing.assert_close(bundled.prompt_check.embeddings, computed, atol=5e-4, rtol=0)

    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.card.known is not None
    assert again.card.known.embeddings is not None
    assert torch.equal(again.card.known.embeddings, computed.half().float())
    save_file({"embeddings": computed[1:].half().contiguous()}, tmp_path / "fewer")
    path = tmp_path / "model/known_prompts.safetensors"
    (tmp_path / "fewer").replace(path)
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["files"][path.name] = path.stat().st_size
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Expected embeddings of 424 prompts"):
        assert load_model(tmp_path / "model").prompt_check


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_is_that_of_language_models_alone(
    make_duet: Make,
    own_text: Make,
    tmp_path: Path,
    dtype: str,
) -> None:
    saved = make_duet(own_text)
    saved.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model", dtype=dtype)
    kind = getattr(torch, dtype)
    found, expected = weights_of(loaded), weights_of(saved)
    assert all(torch.equal(found[name], expected[name].to(kind)) for name in expected)
    assert loaded.renderer.identity == saved.renderer.identity
    clip = loaded.generate("a dog barks", duration=0.1, seed=3)
    assert torch.isfinite(clip.samples).all()
    # What it holds is what is stored.
    loaded.save(tmp_path / "low")
    stored = load_file(tmp_path / "low" / "acoustic" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {kind}
    assert_same_weights(loaded, load_pipeline(tmp_path / "low", dtype=dtype))


def test_half_rounds_language_models_alone_and_loads_to_float32(
    three_stages: AudioPipeline,
    tmp_path: Path,
) -> None:
    three_stages.save(tmp_path / "model", half=True)
    loaded = load_pipeline(tmp_path / "model")
    found, expected = weights_of(loaded), weights_of(three_stages)
    assert all(torch.equal(found[name], expected[name].half().float()) for name in expected)
    assert loaded.renderer.identity == three_stages.renderer.identity
    assert loaded.semantic_tokenizer is not None
    assert loaded.semantic_tokenizer.identity == three_stages.semantic_tokenizer.identity
    stored = load_file(tmp_path / "model" / "fine" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown dtype 'int8'. Choose one of: float32, bf"):
        load_pipeline(tmp_path, dtype="int8")


def test_a_model_takes_the_place_of_an_older_one_even_of_its_own_source(
    small: AudioPipeline,
    three_stages: AudioPipeline,
    tmp_path: Path,
) -> None:
    three_stages.save(tmp_path / "model")
    small.save(tmp_path / "model")
    assert not (tmp_path / "model" / "fine").exists()
    loaded = load_pipeline(tmp_path / "model")
    loaded.save(tmp_path / "model")
    assert_same_weights(small, load_pipeline(tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
