"""A stage that is no part of a model comes back from its folder as it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.text import OwnTextEncoder, OwnTextEncoderConfig, TextConditioner
from lm_audio.families.duet.stages import duet
from lm_audio.generation.lm_stage import LMStage
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.saving.stage_folder import describe_stage, read_stage, write_stage
from lm_audio.training.samples import sample_tokens
from lm_audio.training.text import sentence_text, t5_text

SHAPE = TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=32, cross_attention=True)


def make_stage(text: Callable[[int], nn.Module]) -> LMStage:
    torch.manual_seed(0)
    _, stage = duet(
        semantic=SHAPE,
        acoustic=SHAPE,
        text=text,
        num_semantic_tokens=20,
        semantic_rate=Fraction(25),
        num_codebooks=3,
        codebook_size=16,
        frame_rate=Fraction(11025, 128),
    )
    for weight in stage.model.parameters():
        weight.data *= 2.5
    return replace(stage, window_frames=77, overlap_frames=11)


def labels(dim: int) -> nn.Module:
    return LabelConditioner(["rain", "wind"], dim)


def tokens_of(stage: LMStage) -> torch.Tensor:
    source = torch.arange(30)[None] % 20
    return sample_tokens(stage, num_frames=90, seed=5, conditions={"text": "rain"}, source=source)


def check_round_trip(stage: LMStage, folder: Path) -> LMStage:
    write_stage(stage, folder)
    read = read_stage(folder)
    assert describe_stage(read) == describe_stage(stage)
    assert read.model.config == stage.model.config
    for module, same in [(stage.model, read.model), (stage.conditioners, read.conditioners)]:
        weights, again = module.state_dict(), same.state_dict()
        assert weights.keys() == again.keys()
        assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert torch.equal(tokens_of(read), tokens_of(stage))
    return read


def test_a_stage_comes_back_as_it_was(tmp_path: Path) -> None:
    read = check_round_trip(make_stage(labels), tmp_path / "stage")
    assert (read.window_frames, read.overlap_frames, read.frame_rate) == (
        77,
        11,
        Fraction(11025, 128),
    )


def test_a_text_encoder_of_our_own_comes_back_with_its_words(tmp_path: Path) -> None:
    words = SentencePieceTokenizer.train(["rain on a tent", "wind", "hail"] * 3, 400)
    reader = replace(SHAPE, causal=False, cross_attention=False)
    config = OwnTextEncoderConfig(transformer=reader, vocab_size=words.vocab_size)
    stage = make_stage(lambda dim: TextConditioner(OwnTextEncoder(config, words), dim))
    check_round_trip(stage, tmp_path / "stage")


def test_a_t5_comes_back_with_the_length_of_its_texts(tiny_t5: Path, tmp_path: Path) -> None:
    stage = make_stage(t5_text(tiny_t5))
    stage.conditioners["text"].encoder.max_length = 7
    read = check_round_trip(stage, tmp_path / "stage")
    assert read.conditioners["text"].encoder.max_length == 7


def test_a_sentence_encoder_comes_back_with_its_stage(
    sentence_folder: Path, tmp_path: Path
) -> None:
    stage = make_stage(sentence_text(sentence_folder))
    read = check_round_trip(stage, tmp_path / "stage")
    encoders = [one.conditioners["text"].encoder for one in (stage, read)]
    assert encoders[0].identity == encoders[1].identity
    path = tmp_path / "stage" / "stage.json"
    description = json.loads(path.read_text())
    description["text_encoder"]["kind"] = "clap"
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"Unknown kind 'clap' of text encoder .* t5, sent"):
        read_stage(tmp_path / "stage")


def test_a_stage_is_replaced_whole(tmp_path: Path) -> None:
    write_stage(make_stage(labels), tmp_path / "stage")
    other = replace(make_stage(labels), window_frames=50, overlap_frames=10)
    write_stage(other, tmp_path / "stage")
    assert read_stage(tmp_path / "stage").window_frames == 50
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_a_folder_without_a_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No readable stage\.json in"):
        read_stage(tmp_path)
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(ValueError, match=r"No readable stage\.json in"):
        read_stage(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"pattern": {"kind": "delayed"}}, {"conditioners": []}, {"frame_rate": "1/0"}, {"new": 1}],
)
def test_a_description_of_another_version_is_refused(
    changes: dict[str, object], tmp_path: Path
) -> None:
    write_stage(make_stage(labels), tmp_path)
    path = tmp_path / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match="This version of lm-audio cannot build the model"):
        read_stage(tmp_path)


def test_a_description_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text("{}")
    with pytest.raises(ValueError, match="This version of lm-audio cannot build the model"):
        read_stage(tmp_path)


def test_a_stage_that_knows_other_tokens_is_refused(tmp_path: Path) -> None:
    write_stage(make_stage(labels), tmp_path, tokens={"semantic": "a", "acoustic": "b"})
    read_stage(tmp_path)
    read_stage(tmp_path, tokens={"semantic": "a", "samples": "pcm"})
    with pytest.raises(ValueError, match=r"trained on semantic tokens of a, .* from c"):
        read_stage(tmp_path, tokens={"semantic": "c", "acoustic": "b"})
