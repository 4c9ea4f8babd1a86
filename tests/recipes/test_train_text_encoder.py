"""A small encoder learns what its teacher makes of sentences, and stages read by it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from transformers import BertConfig, BertModel

from audio_tokenizers.audio_files import AudioInfo
from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.data.manifest import make_cut, read_cuts, write_cuts
from lm_audio.loading import load

pytestmark = pytest.mark.usefixtures("steady_weights")
INFO = AudioInfo(sample_rate=8000, num_samples=8000, num_channels=1, format="WAV")


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_text_encoder")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of sounds, and wordings that no clip has, by the class and by the clip."""
    folder = tmp_path_factory.mktemp("corpus")
    cuts = [
        make_cut(f"{i}-{thing}", f"{i}.wav", info=INFO, conditions={"text": text, "label": thing})
        for i in range(8)
        for thing, text in (
            ("dog", "soft dog and a loud dog"),
            ("bell", ["far bell and a soft bell", "loud bell"]),
        )
    ]
    write_cuts(folder, cuts, held_out=0.4)
    clip = next(cut.id for cut in read_cuts(folder, "held_out") if cut.id.endswith("bell"))
    unseen = [
        {"text": "far dog and a far dog", "label": "dog"},
        {"text": "two of what no clip has", "label": "no such class"},
        {"id": clip, "captions": ["far bell and a far bell"]},
    ]
    lines = "".join(json.dumps(line) + "\n" for line in unseen)
    (folder / "unseen_captions.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def run(
    recipe: ModuleType, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[float]]:
    out = tmp_path_factory.mktemp("run")
    config = replace(recipe.PRESETS["tiny"], out=out, corpora=(corpus,))
    return config, recipe.main(config)


def test_the_loss_after_five_steps_is_pinned_and_it_falls(run: tuple[Any, list[float]]) -> None:
    losses = run[1]
    assert losses[4] == pytest.approx(1.5649, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])


def test_held_out_sentences_lie_where_the_teacher_puts_them(
    recipe: ModuleType, run: tuple[Any, list[float]]
) -> None:
    config = run[0]
    held_out = recipe.read_sentences(config)[: config.held_out]
    encoder = SentenceEncoder.load(config.out / "model")
    made, taught = recipe.embeddings(encoder, held_out), recipe.read_teacher(config)(held_out)
    cosine = float((made * taught).sum(dim=1).mean())
    report = json.loads((config.out / "report.json").read_text())
    assert cosine > 0.9
    assert report["cosine"] == pytest.approx(cosine, abs=1e-3)
    words = torch.cat([x[1:] for x in encoder.encode(held_out)])
    assert words.square().mean() == pytest.approx(1, rel=0.05)
    assert (config.out / "model" / "model.safetensors").stat().st_size < 2.2 * report["weights"]


def test_unseen_wordings_find_their_class(run: tuple[Any, list[float]], corpus: Path) -> None:
    found = json.loads((run[0].out / "report.json").read_text())["nearest_class"][corpus.name]
    assert found == {"wordings": 2, "encoder": 1.0, "teacher": 1.0, "word pieces": 1.0}


def test_the_teacher_is_asked_once(
    recipe: ModuleType, run: tuple[Any, list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(run[0], steps=2)
    assert recipe.main(config) == pytest.approx(run[1][:2], rel=0.2)
    assert "teacher" not in capsys.readouterr().err
    recipe.main(replace(config, seed=1))  # other sentences
    assert "teacher" in capsys.readouterr().err


def test_a_transformer_teaches_by_the_mean_of_its_outputs(
    recipe: ModuleType, tmp_path: Path
) -> None:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "dog", "bell", "far"])}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=6, intermediate_size=16, **sizes)).eval()
    bert.save_pretrained(tmp_path)
    made = recipe.transformers_teacher(str(tmp_path), device="cpu")(["a dog", "a far bell"])
    with torch.no_grad():
        mean = bert(input_ids=torch.tensor([[2, 3]])).last_hidden_state[0].mean(dim=0)
    assert made.shape == (2, 16)
    assert torch.cosine_similarity(made[0], mean, dim=0) > 0.999
    assert made.norm(dim=1).tolist() == pytest.approx([1, 1])


def test_both_stages_read_by_it_and_a_model_holds_it_once(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    run: tuple[Any, list[float]],
    tmp_path: Path,
) -> None:
    given = {
        "steps": 1, "context_seconds": 0.4, "tokens_per_batch": 400,
        "text_encoder": run[0].out / "model",
    }  # fmt: skip
    for name, rest in (("semantic", {}), ("acoustic", {"semantic": tmp_path / "semantic"})):
        train_stage.main(tiny_stage(f"duet {name}", out=tmp_path / name, **given, **rest))
    model = load(tmp_path / "acoustic" / "model")
    one, other = (stage.conditioners["text"].encoder for stage in model.stages.values())
    assert one is other
    assert one.identity == SentenceEncoder.load(run[0].out / "model").identity
    assert model.generate("a far bell", duration=0.1, seed=1).samples.isfinite().all()


def test_mistakes_are_named(recipe: ModuleType, tmp_path: Path) -> None:
    tiny, usual = (replace(recipe.PRESETS[x], out=tmp_path) for x in ("tiny", "default"))
    with pytest.raises(ValueError, match="No teacher; pass --teacher with the folder or hub id"):
        recipe.main(usual)
    with pytest.raises(ValueError, match=r"Found no sentence embedding at .*gone; pass a folder"):
        recipe.main(replace(usual, teacher=str(tmp_path / "gone")))
    with pytest.raises(ValueError, match="No sentences to train on; create them with"):
        recipe.read_sentences(usual)
    (tmp_path / "few.txt").write_text("a dog\n\na bell\na dog\n")
    with pytest.raises(ValueError, match="Got 2 sentences, too few for --held-out 20 and --batch"):
        recipe.main(replace(tiny, sentences=tmp_path / "few.txt"))


def test_a_corpus_without_wordings_to_judge_by_is_a_mistake(
    recipe: ModuleType, run: tuple[Any, list[float]], corpus: Path, tmp_path: Path
) -> None:
    for file in corpus.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "unseen_captions.jsonl").write_text("")
    encoder = SentenceEncoder.load(run[0].out / "model")
    with pytest.raises(ValueError, match="has no unseen captions for any class in its training"):
        recipe.judge(tmp_path, encoder, recipe.read_teacher(run[0]))
