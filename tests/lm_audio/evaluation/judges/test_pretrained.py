"""Classifiers, recognisers and voices of transformers: tiny random ones, saved and loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from lm_audio.evaluation.judges.classifier import TransformersClassifier
from lm_audio.evaluation.judges.pretrained import load_pretrained
from lm_audio.evaluation.judges.speakers import XVectors, load_speaker_embedding
from lm_audio.evaluation.judges.speech_recognition import CtcRecognizer, Whisper, load_recognizer

SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
WAV2VEC2: dict[str, Any] = SHAPE | {
    "conv_dim": [8] * 3, "conv_kernel": [10, 8, 8], "conv_stride": [10, 8, 4],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "tdnn_dim": [16] * 5, "xvector_output_dim": 8,
}  # fmt: skip


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def test_a_classifier_gives_a_distribution_for_each_window(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {0: "dog", 1: "rain", 2: "siren"}
    config = ASTConfig(**SHAPE, max_length=128, num_mel_bins=16, id2label=names)
    model = ASTForAudioClassification(config).eval()
    model.save_pretrained(tmp_path)
    ASTFeatureExtractor(max_length=128, num_mel_bins=16).save_pretrained(tmp_path)
    classifier = TransformersClassifier(tmp_path, seconds=1.0)
    assert list(classifier.labels) == ["dog", "rain", "siren"]
    sound = noise(40_000)
    probabilities = classifier(sound[None])
    assert probabilities.shape == (2, 3)  # whole seconds
    extractor = ASTFeatureExtractor.from_pretrained(tmp_path)
    inputs = extractor(sound[:16_000].numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(dim=-1)
    assert torch.allclose(probabilities[:1], expected, atol=1e-6)
    assert classifier(sound[None, :3000]).shape == (1, 3)


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ctc")
    letters = {c: i for i, c in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcde"])}
    (folder / "vocab.json").write_text(json.dumps(letters))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**WAV2VEC2, vocab_size=len(letters)))
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    return folder


def test_a_ctc_model_says_its_best_path(ctc_folder: Path) -> None:
    recognizer = load_recognizer(ctc_folder)
    assert isinstance(recognizer, CtcRecognizer)
    sound = noise(16_000)
    model = Wav2Vec2ForCTC.from_pretrained(ctc_folder)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(ctc_folder)
    inputs = extractor(sound.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        path = torch.unique_consecutive(model(**inputs).logits[0].argmax(dim=-1))
    letters = dict(enumerate(["", "<s>", "</s>", "<unk>", " ", *"abcde"]))
    expected = "".join(letters[token] for token in path.tolist())
    said = recognizer(sound)
    assert said.replace("<s>", "").replace("</s>", "").replace("<unk>", "")
    assert said.split() == expected.split()


def test_whisper_reads_long_sound_window_by_window(letters: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=30, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_source_positions=50, max_target_positions=12, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=3, begin_suppress_tokens=None,
        suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.7)
    model.model.decoder.embed_tokens.weight.data[:4] = 0  # letters are likelier
    model.save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(tmp_path)
    for file in letters.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    recognizer = load_recognizer(tmp_path)
    assert isinstance(recognizer, Whisper)
    sound = noise(24_000)
    said = recognizer(sound)
    assert len(said.split()) == 2
    assert said == f"{recognizer(sound[:16_000])} {recognizer(sound[16_000:])}"


def test_what_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No speech recogniser found at .* Give a folder or hub"):
        load_recognizer(tmp_path)


@pytest.fixture(scope="module")
def voices_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    torch.manual_seed(0)
    Wav2Vec2ForXVector(Wav2Vec2Config(**WAV2VEC2)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_voices_are_the_vectors_of_the_model(voices_folder: Path) -> None:
    embedding = load_speaker_embedding(voices_folder)
    assert isinstance(embedding, XVectors)
    sound = noise(16_000)
    model = Wav2Vec2ForXVector.from_pretrained(voices_folder)
    level = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        expected = model(level[None]).embeddings
    got = embedding(sound[None])
    assert got.shape == (1, 8)
    assert torch.cosine_similarity(got, expected).item() == pytest.approx(1.0, abs=1e-5)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights of Wav2Vec2ForXVector, such as "):
        load_pretrained(Wav2Vec2ForXVector, tmp_path)
    with pytest.raises(ValueError, match="No model with safetensors found at"):
        load_pretrained(Wav2Vec2ForXVector, tmp_path / "nothing")


def test_resemblyzer_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(ValueError, match="Install it with: pip install resemblyzer"):
        load_speaker_embedding("resemblyzer")
