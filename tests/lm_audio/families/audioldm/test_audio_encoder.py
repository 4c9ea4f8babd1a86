"""The language of audio of a recording, against transformers and naive loops."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ASTFeatureExtractor, ViTConfig, ViTModel

import lm_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.identity import hash_tensor
from audio_tokenizers.semantic.masked_model import (
    MaskedAudioModel,
    MaskedModelConfig,
    save_masked_model,
)
from lm_audio.families.audioldm.audio_encoder import load_audio_encoder
from lm_audio.sampling import Denoising

NUM_VECTORS, WIDTH = 8, 16
SPECTRA, MELS, PATCH = 64, 8, 4
QUICK = Denoising(steps=2)


def sound(seconds: float, *, rate: int = 16_000, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(1, round(seconds * rate), generator=generator)


@pytest.fixture(scope="module")
def vit() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(SPECTRA, MELS), patch_size=PATCH, num_channels=1, hidden_size=WIDTH,
        num_hidden_layers=4, num_attention_heads=2, intermediate_size=24, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.1, 0.4)
    return model


@pytest.fixture
def vit_folder(vit: ViTModel, tmp_path: Path) -> Path:
    vit.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture(scope="module")
def masked() -> MaskedAudioModel:
    torch.manual_seed(0)
    config = MaskedModelConfig(
        sample_rate=1600, spectrum_hop=16, num_mels=8, width=WIDTH, num_layers=4, num_heads=2
    )
    model = MaskedAudioModel(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.1, 0.4)
    return model


@pytest.fixture
def with_encoder(folder: Path, vit: ViTModel, tmp_path: Path) -> Path:
    """An AudioLDM 2 with an encoder of sound."""
    shutil.copytree(folder, tmp_path / "model")
    vit.save_pretrained(tmp_path / "model" / "audio_encoder")
    return tmp_path / "model"


def image_of(samples: Tensor) -> Tensor:
    """What AudioMAE sees of samples [1, N]: [SPECTRA, MELS]."""
    extractor = ASTFeatureExtractor(num_mel_bins=MELS, max_length=SPECTRA)
    given = extractor(samples[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    return given.input_values[0]


def pooled(grid: np.ndarray, *, side: int) -> np.ndarray:
    """Averages and maxima over squares, one after the other: [T, P, D] to [D, L]."""
    T, P, _ = grid.shape
    found = []
    for t in range(0, T, side):
        for p in range(0, P, side):
            square = grid[t : t + side, p : p + side].reshape(-1, grid.shape[2])
            found.append((square.mean(axis=0) + square.max(axis=0)) / 2)
    return np.stack(found, axis=1)


@pytest.mark.parametrize(("num_vectors", "side"), [(NUM_VECTORS, 2), (32, 1)])
@pytest.mark.parametrize("seconds", [0.64, 0.3, 0.01])
def test_a_vision_transformer_encodes_as_that_of_transformers(
    vit: ViTModel, vit_folder: Path, num_vectors: int, side: int, seconds: float
) -> None:
    samples = sound(seconds)
    made = load_audio_encoder(vit_folder, num_vectors=num_vectors).encode(samples)
    image = image_of(F.pad(samples, (0, round(0.64 * 16_000) - samples.shape[1])))
    with torch.no_grad():
        states = vit(image[None, None], output_hidden_states=True).hidden_states
        states = [vit.layernorm(states[i])[0, 1:] for i in (2, 3, 4)]  # the class token is dropped
    grid = torch.stack(states).mean(dim=0).unflatten(0, (SPECTRA // PATCH, MELS // PATCH))
    assert made.shape == (WIDTH, num_vectors)
    expected = torch.from_numpy(pooled(grid.numpy(), side=side))
    assert expected.std() > 0.1
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


def timm_forward(weights: dict[str, Tensor], image: Tensor, *, num_heads: int) -> list[Tensor]:
    """The normalised outputs of all blocks of timm's vision transformer, by its own names."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        variance = x.var(-1, keepdim=True, correction=0)
        scaled = (x - x.mean(-1, keepdim=True)) / (variance + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patches = F.conv2d(
        image[None, None], weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"],
        stride=PATCH,
    )  # fmt: skip
    x = torch.cat([weights["cls_token"][0], patches[0].flatten(1).T]) + weights["pos_embed"][0]
    outputs = []
    for i in range(2):
        block = f"blocks.{i}"
        heads = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = heads.unflatten(-1, (3, num_heads, -1)).permute(1, 2, 0, 3)
        shares = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((shares @ v).transpose(0, 1).flatten(1), f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
        outputs.append(norm(x, "norm"))
    return outputs


def timm_weights(width: int = 128) -> dict[str, Tensor]:
    torch.manual_seed(1)
    places = (SPECTRA // PATCH) * (MELS // PATCH)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 1 + places, width),
        "patch_embed.proj.weight": (width, 1, PATCH, PATCH), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    for i in range(2):
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
            ("mlp.fc1", 24, width), ("mlp.fc2", width, 24),
        ):  # fmt: skip
            shapes[f"blocks.{i}.{name}.weight"] = rows, columns
            shapes[f"blocks.{i}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{name}.weight"] = shapes[f"blocks.{i}.{name}.bias"] = (width,)
    return {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}


def test_the_layout_of_timm_is_read(tmp_path: Path) -> None:
    weights = timm_weights()
    save_file(weights, tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_base_patch16_224",
        "model_args": {"img_size": [SPECTRA, MELS], "in_chans": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    samples = sound(0.64, seed=3)
    made = load_audio_encoder(tmp_path, num_vectors=NUM_VECTORS).encode(samples)
    states = timm_forward(weights, image_of(samples), num_heads=2)  # heads of 64
    grid = torch.stack(states).mean(dim=0)[1:].unflatten(0, (SPECTRA // PATCH, MELS // PATCH))
    torch.testing.assert_close(
        made, torch.from_numpy(pooled(grid.numpy(), side=2)), atol=1e-4, rtol=0
    )


def test_our_own_masked_model_encodes(masked: MaskedAudioModel, tmp_path: Path) -> None:
    save_masked_model(masked, tmp_path)
    encoder = load_audio_encoder(tmp_path, num_vectors=NUM_VECTORS)
    assert encoder.sample_rate == 1600
    samples = sound(4.0, rate=1600)
    made = encoder.encode(samples)
    padded = F.pad(samples, (0, 16_384 - samples.shape[1]))  # 10.24 s, 256 patches
    with torch.no_grad():
        embedded = masked.embed(masked.patches(padded[None]))
        states = [masked.norm(masked.encode_patches(embedded, num_layers=i)) for i in (2, 3, 4)]
    mean = torch.stack(states).mean(dim=0)[0].numpy()
    stretches = np.split(mean, NUM_VECTORS)
    expected = np.stack([(x.mean(axis=0) + x.max(axis=0)) / 2 for x in stretches], axis=1)
    torch.testing.assert_close(made, torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_a_long_sound_is_cut_with_a_warning(vit_folder: Path) -> None:
    encoder = load_audio_encoder(vit_folder, num_vectors=NUM_VECTORS)
    samples = sound(1.0)
    with pytest.warns(UserWarning, match=r"describes the first 0.64 seconds of a sound"):
        made = encoder.encode(samples)
    assert torch.equal(made, encoder.encode(samples[:, :10_240]))


def test_an_identity_names_weights_and_settings(vit_folder: Path) -> None:
    found = load_audio_encoder(vit_folder, num_vectors=NUM_VECTORS).identity
    assert found == load_audio_encoder(vit_folder, num_vectors=NUM_VECTORS).identity
    assert found != load_audio_encoder(vit_folder, num_vectors=32).identity
    path = vit_folder / "model.safetensors"
    save_file({n: w + (n == "layernorm.bias") for n, w in load_file(path).items()}, path)
    assert found != load_audio_encoder(vit_folder, num_vectors=NUM_VECTORS).identity


def test_the_language_of_a_recording_leads_a_clip(with_encoder: Path, tmp_path: Path) -> None:
    model = lm_audio.load(with_encoder)
    samples = sound(0.3, rate=48_000)
    write_audio(tmp_path / "rain.wav", samples, 48_000)

    def clip(given: Any, **settings: Any) -> lm_audio.Clip:
        tokens = {"audio_language": given}
        return model.generate(
            "rain", duration=0.31, seed=3, tokens=tokens, sampling=QUICK, **settings
        )

    made = clip(tmp_path / "rain.wav")
    stage: Any = model.stages["audio_language"]
    assert made.stage_values["audio_language"].shape == (WIDTH, NUM_VECTORS)
    free = model.generate("rain", duration=0.31, seed=3, sampling=QUICK)
    assert not torch.allclose(made.samples, free.samples, atol=1e-3)
    for given in (made.stage_values["audio_language"], made.stage_values["audio_language"].clone()):
        again = clip(given)
        assert hash_tensor(again.samples) == hash_tensor(made.samples)
        assert hash_tensor(again.stage_values["audio_language"]) == hash_tensor(given)
    near = clip((samples, 48_000))  # the file has 16 bits
    torch.testing.assert_close(near.samples, made.samples, atol=0.05, rtol=0)
    heard = lm_audio.load(with_encoder).stages["audio_language"].encoder  # type: ignore[attr-defined]
    assert heard.identity == stage.encoder.identity


def test_given_vectors_give_the_same_clip_in_a_batch_and_a_stream(with_encoder: Path) -> None:
    model = lm_audio.load(with_encoder)
    tokens = {"audio_language": (sound(0.3), 16_000)}
    alone = model.generate("rain", duration=0.31, seed=3, tokens=tokens, sampling=QUICK)
    batch = model.generate(
        ["wind", "rain"], duration=[0.1, 0.31], seed=[1, 3], tokens=tokens, sampling=QUICK
    )
    assert torch.equal(batch[1].samples, alone.samples)
    pieces = model.stream("rain", duration=0.31, seed=3, tokens=tokens, sampling=QUICK)
    assert torch.equal(torch.cat(list(pieces), dim=1), alone.samples)


def test_a_model_without_an_encoder_takes_no_sound(folder: Path) -> None:
    model = lm_audio.load(folder)
    for given in ("rain.wav", (sound(0.1), 16_000)):
        with pytest.raises(ValueError, match="no encoder of audio for its audio_language stage"):
            model.generate("rain", duration=0.1, tokens={"audio_language": given})


def test_sounds_that_cannot_be_read_are_named(with_encoder: Path) -> None:
    model = lm_audio.load(with_encoder)
    with pytest.raises((ValueError, FileNotFoundError), match=r"gone\.wav"):
        model.generate("rain", duration=0.1, tokens={"audio_language": "gone.wav"})
    with pytest.raises(ValueError, match="Audio must be a path, a Clip, or samples"):
        model.generate("rain", duration=0.1, tokens={"audio_language": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="values for the audio_language stage contain NaN"):
        model.generate(
            "rain", duration=0.1, tokens={"audio_language": torch.full((16, 8), torch.nan)}
        )


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_folders_that_are_no_encoder_are_refused(vit_folder: Path, tmp_path: Path) -> None:
    def refused(match: str, *, num_vectors: int = NUM_VECTORS) -> None:
        with pytest.raises(ValueError, match=match) as error:
            load_audio_encoder(vit_folder, num_vectors=num_vectors)
        assert "\n" not in str(error.value)

    config = json.loads((vit_folder / "config.json").read_text())

    def change(**settings: Any) -> None:
        (vit_folder / "config.json").write_text(json.dumps(config | settings))

    refused(r"can make 8, 32 vectors of a sound, but the model needs 7", num_vectors=7)
    change(model_type="bert")
    refused("has no audio encoder that we know")
    change(num_channels=3)
    refused(r"expected images of one channel")
    change(image_size=64)
    refused(r"expected images of one channel, \[time, mels\]")
    change(hidden_size=20)
    refused("of another shape: ")
    change(num_hidden_layers=3)
    refused(r"unexpected or of another shape: .*3")
    change()
    (vit_folder / "model.safetensors").unlink()
    mark = tmp_path / "executed"
    (vit_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(mark)))
    refused(r"Refused to read|Could not read")
    assert not mark.exists()


def test_an_encoder_of_another_width_is_refused(with_encoder: Path) -> None:
    shutil.rmtree(with_encoder / "audio_encoder")
    config = ViTConfig(
        image_size=(SPECTRA, MELS), patch_size=PATCH, num_channels=1, hidden_size=20,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(with_encoder / "audio_encoder")
    with pytest.raises(ValueError, match="the audio_encoder has width 20, GPT-2 16"):
        lm_audio.load(with_encoder)
