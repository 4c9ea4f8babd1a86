"""CLAP through transformers: a tiny random one, against what its model says of the same input."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

import lm_audio
from lm_audio.evaluation.judges.clap import Clap

RATE = 48_000


@pytest.fixture(scope="module")
def folder(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clap")
    text = {
        "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 0,
    }  # fmt: skip
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4, "num_hidden_layers": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    ClapModel(config).eval().save_pretrained(folder)
    extractor = ClapFeatureExtractor(
        feature_size=16, max_length_s=2, truncation="rand_trunc", padding="repeatpad"
    )
    extractor.save_pretrained(folder)
    for file in letters.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def noise(seconds: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(1, round(RATE * seconds), generator=generator)


def test_sound_and_text_are_those_of_the_model(folder: Path) -> None:
    clap = Clap(folder)
    model, tokenizer = ClapModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    sound = noise(2.0)
    inputs = extractor(sound[0].numpy(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        text = tokenizer(["rain"], return_tensors="pt")
        outputs = model(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"],
            input_features=inputs["input_features"], is_longer=inputs["is_longer"],
        )  # fmt: skip
    assert torch.allclose(clap(sound), F.normalize(outputs.audio_embeds, dim=-1), atol=1e-5)
    assert torch.allclose(
        clap.embed_texts(["rain"]), F.normalize(outputs.text_embeds, dim=-1), atol=1e-5
    )


def test_a_long_clip_is_seen_whole_and_the_same_each_time(folder: Path) -> None:
    clap = Clap(folder)
    sound = noise(5.5)
    vectors = clap(sound)
    assert vectors.shape == (3, 12)  # 2 s, 2 s and the rest
    assert torch.equal(vectors, clap(sound))
    assert torch.allclose(vectors[1:2], clap(sound[:, 2 * RATE : 4 * RATE]), atol=1e-6)
    assert clap(noise(4.5)).shape == (2, 12)  # a rest of half a second is left out


def test_texts_of_any_length_do_not_change_each_other(folder: Path) -> None:
    clap = Clap(folder)
    together = clap.embed_texts(["a dog", "rain on a tent " * 20])
    assert torch.allclose(together[:1], clap.embed_texts(["a dog"]), atol=1e-6)


def test_it_picks_the_best_take_of_any_model(folder: Path) -> None:
    pipeline = lm_audio.load(device="cpu", judge=folder)
    clip = pipeline.generate("rain", duration=0.5, seed=1, best_of=3)
    scores = [Clap(folder).score(take.samples, take.sample_rate, "rain") for take in clip.takes]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    stereo = clip.samples.expand(2, -1)
    assert Clap(folder).score(stereo, clip.sample_rate, "rain") == pytest.approx(scores[0])
