"""MusicGen as transformers has it, through our whole path: text, conditioner, model."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MusicgenForConditionalGeneration

import lm_audio
from lm_audio.families.audiocraft.parts import MusicGenParts
from lm_audio.families.audiocraft.transformers_layout import read_musicgen
from lm_audio.patterns import delayed, stereo
from lm_audio.sampling import Sampling

TEXTS = ["a dog barks in the rain", "wind", None]


def our_logits(parts: MusicGenParts, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return parts.model(tokens, fused=parts.conditioners({"text": TEXTS}))


def their_logits(
    model: MusicgenForConditionalGeneration, parts: MusicGenParts, tokens: torch.Tensor
) -> torch.Tensor:
    given = [text or "" for text in TEXTS]
    text = parts.text.encoder.tokenizer.encode(given)  # type: ignore[attr-defined]
    mask = text.mask.clone()
    mask[TEXTS.index(None)] = False
    with torch.inference_mode():
        out = model(
            input_ids=text.tokens,
            attention_mask=mask.long(),
            decoder_input_ids=tokens.flatten(0, 1),
        )
    return out.logits.unflatten(0, tokens.shape[:2])


@pytest.mark.parametrize("S", [1, 13])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_channels": 2},
        {"hidden_size": 48, "num_attention_heads": 4, "ffn_dim": 96, "num_hidden_layers": 1},
        {"text_width": 32},
        {"num_codebooks": 2, "num_hidden_layers": 3},
    ],
)
def test_logits_equal_those_of_transformers(
    config: dict[str, Any],
    S: int,
    make_musicgen: Callable[..., MusicgenForConditionalGeneration],
    save_musicgen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = make_musicgen(**config)
    parts = read_musicgen(save_musicgen(model, tmp_path))
    J = model.config.decoder.num_codebooks
    tokens = torch.randint(0, 65, (3, J, S), generator=torch.Generator().manual_seed(1))
    ours, theirs = our_logits(parts, tokens), their_logits(model, parts, tokens)
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_folder_in_shards_is_the_same(
    musicgen_folder: Path,
    make_musicgen: Callable[..., MusicgenForConditionalGeneration],
    save_musicgen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = save_musicgen(make_musicgen(), tmp_path, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert_equal_weights(read_musicgen(folder), read_musicgen(musicgen_folder))
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(
        ValueError, match=r"model-0.*safetensors, listed in model.safeten.* is missing"
    ):
        read_musicgen(folder)


def test_old_files_with_sinusoids_and_both_tied_names_are_the_same(
    musicgen_folder: Path, copied: Callable[..., Path]
) -> None:
    folder = copied()
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 32)
    state["text_encoder.encoder.embed_tokens.weight"] = state["text_encoder.shared.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    assert_equal_weights(read_musicgen(folder), read_musicgen(musicgen_folder))


def test_how_it_is_used_is_read(
    musicgen_folder: Path, stereo_musicgen_folder: Path, copied: Callable[..., Path]
) -> None:
    parts = read_musicgen(musicgen_folder)
    assert (parts.num_channels, parts.sample_rate, parts.frame_rate) == (1, 32_000, 50)
    assert parts.pattern == delayed([0, 1, 2, 3])
    assert (parts.max_frames, parts.licence) == (1500, None)
    assert parts.sampling == Sampling(guidance_scale=3.0, top_k=250)
    parts = read_musicgen(stereo_musicgen_folder)
    assert parts.num_channels == 2
    assert parts.pattern == stereo(delayed([0, 1, 2, 3]))
    folder = copied()
    (folder / "README.md").write_text("---\ntags: [music]\nlicense: cc-by-nc-4.0\n---\n# Model\n")
    stated = {"guidance_scale": 2.0, "top_k": 0, "temperature": 0.5, "max_length": 500}
    (folder / "generation_config.json").write_text(json.dumps(stated))
    parts = read_musicgen(folder)
    assert (parts.max_frames, parts.licence) == (500, "cc-by-nc-4.0")
    assert parts.sampling == Sampling(guidance_scale=2.0, top_k=0, temperature=0.5)
    (folder / "generation_config.json").unlink()
    assert read_musicgen(folder).max_frames == 1500


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"do_sample": False}, Sampling(temperature=0.0)),
        ({"do_sample": False, "temperature": 0.7}, Sampling(temperature=0.0)),
        ({"do_sample": True, "top_p": 0.9, "min_p": 0.1}, Sampling(top_p=0.9, min_p=0.1)),
        ({"top_p": 1.0, "min_p": None, "repetition_penalty": 1.0, "num_beams": 1}, Sampling()),
        (
            {"repetition_penalty": 1.2, "max_length": 500},
            Sampling(repetition_penalty=1.2, repetition_window=500),
        ),
    ],
)
def test_sampling_is_that_of_the_generation_config(
    stated: dict[str, Any], expected: Sampling, copied: Callable[..., Path]
) -> None:
    folder = copied()
    (folder / "generation_config.json").write_text(json.dumps(stated))
    assert read_musicgen(folder).sampling == expected


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"num_beams": 4}, "Unsupported num_beams=4 in the generation_config.json of .*; remove"),
        ({"typical_p": 0.9}, "Unsupported typical_p=0.9"),
        ({"suppress_tokens": [3]}, r"Unsupported suppress_tokens=\[3\]"),
        ({"decoder_start_token_id": 3}, "decoder_start_token_id=3 .*; expected 64, the padding"),
        ({"bos_token_id": 3}, "Unsupported decoder_start_token_id=3"),
    ],
)
def test_generation_settings_without_an_equivalent_are_refused(
    stated: dict[str, Any], message: str, copied: Callable[..., Path]
) -> None:
    folder = copied()
    (folder / "generation_config.json").write_text(json.dumps(stated))
    with pytest.raises(ValueError, match=message):
        read_musicgen(folder)


@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_model_may_use_the_first_codebooks_of_its_codec(
    num_channels: int,
    make_musicgen: Callable[..., MusicgenForConditionalGeneration],
    save_musicgen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = make_musicgen(num_channels=num_channels, num_codebooks=2 * num_channels)
    pipeline = lm_audio.load(save_musicgen(model, tmp_path))
    assert pipeline.renderer.codec.num_codebooks == 4  # type: ignore[attr-defined]
    clip = pipeline.generate("a dog", duration=0.2, seed=1, raw=True)
    assert clip.tokens is not None
    assert clip.tokens.shape == (2 * num_channels, 10)
    codes = clip.tokens.unflatten(0, (2, num_channels)).transpose(0, 1)  # [C, K, T]
    with torch.no_grad():
        expected = model.audio_encoder.decode(codes[None], [None] * len(codes)).audio_values
    torch.testing.assert_close(clip.samples, expected[:, 0], rtol=0, atol=1e-5)
    more = pipeline.continue_from(clip, duration=0.2, seed=1)
    assert more.samples.shape == (num_channels, 12_800)


def test_dtype_is_that_of_the_model_alone(musicgen_folder: Path) -> None:
    parts = read_musicgen(musicgen_folder, dtype=torch.bfloat16)
    assert parts.model.heads.weight.dtype == torch.bfloat16
    assert parts.text.encoder.model.dtype == torch.float32  # type: ignore[attr-defined]
    made = parts.conditioners({"text": ["a dog"]}).cross
    assert made is not None
    assert made.embeddings.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "musicgen_melody"},
            "Expected musicgen_melody_decoder as the decoder .* got musicgen_decoder",
        ),
        (
            {"model_type": "musicgen_decoder"},
            "model_type musicgen or musicgen_melody in .* got musicgen_decoder",
        ),
        (
            {"audio_encoder": {"model_type": "dac"}},
            "Expected encodec as the audio_encoder .* got dac",
        ),
        ({"text_encoder": None}, "Expected t5 as the text_encoder .* got None"),
        ({"scale_embedding": True}, "setting scale_embedding=True in .* Expected False"),
        ({"activation_function": "relu"}, "setting activation_function=relu in .* Expected gelu"),
        ({"pad_token_id": 0}, "Expected pad_token_id=64, .* got 0"),
        ({"audio_channels": 3}, "Invalid MusicGen config.json in .*audio channels, got 3"),
        ({"num_codebooks": 8}, "missing or unexpected weights: decoder.lm_heads.4.weight"),
        ({"ffn_dim": 32}, r"weight shapes that .*fc1.weight .\[64, 32\] instead of \[32, 32\]"),
    ],
)
def test_other_models_are_refused(
    change: dict[str, Any], message: str, copied: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        read_musicgen(copied(change))


def test_files_that_are_not_whole_are_refused(copied: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Folder .*none not found. Give the folder"):
        read_musicgen(tmp_path / "none")
    folder = copied()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1000])
    with pytest.raises(ValueError, match="is not a complete safetensors file; download it again"):
        read_musicgen(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"No weights found in .* Expected model.safetensors"):
        read_musicgen(folder)
    (folder / "pytorch_model.bin").write_bytes(weights)
    with pytest.raises(ValueError, match=r"(Refused to|Could not) read .*pytorch_model.bin: "):
        read_musicgen(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        read_musicgen(folder)


def test_a_codec_of_other_tokens_is_refused(copied: Callable[..., Path]) -> None:
    parts = read_musicgen(copied())
    two = dataclasses.replace(parts, num_channels=2)
    two.check(source="folder")  # two codebooks for each channel
    fewer = copy.deepcopy(parts.codec)
    fewer.model.quantizer.layers = fewer.model.quantizer.layers[:3]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="4 codebooks for 1 channels, but the codec has 3 for 1"):
        dataclasses.replace(parts, codec=fewer).check(source="folder")
    fewer = copy.deepcopy(parts.codec)
    fewer.model.config.codebook_size = 32  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="has 64 tokens, but a codebook of the codec has 32"):
        dataclasses.replace(parts, codec=fewer).check(source="folder")


@pytest.fixture
def copied(musicgen_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the checkpoint, with changes to its config.json or that of its decoder."""

    def copy_it(change: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(musicgen_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        for name, value in (change or {}).items():
            (config if name in config else config["decoder"])[name] = value
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy_it


def assert_equal_weights(ours: MusicGenParts, theirs: MusicGenParts) -> None:
    assert ours.codec.identity == theirs.codec.identity
    encoders = [parts.text.encoder.model for parts in (ours, theirs)]  # type: ignore[attr-defined]
    for module, other in ((ours.model, theirs.model), (ours.text, theirs.text), encoders):
        state, expected = module.state_dict(), other.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
