"""The transformer of Stable Audio against those of diffusers."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.families.stable_audio.configs import first_dit_config, third_dit_config
from lm_audio.families.stable_audio.family import FAMILY
from lm_audio.families.stable_audio.names import first_dit_names, third_dit_names
from lm_audio.networks.audio_dit import AudioDiT, AudioDiTConfig
from tests.lm_audio.families.stable_audio.random_weights import randomise

diffusers: Any = pytest.importorskip("diffusers", minversion="0.42")
StableAudio3DiTModel = diffusers.StableAudio3DiTModel
StableAudioDiTModel = diffusers.StableAudioDiTModel

FIRST: dict[str, dict[str, Any]] = {
    "as published": {},
    "one layer": {"num_layers": 1},
    "heads of its own for the condition": {
        "num_key_value_attention_heads": 4,
        "cross_attention_dim": 32,
    },
    "one head of a condition": {"num_key_value_attention_heads": 1, "cross_attention_dim": 8},
    "a condition of another width": {"cross_attention_input_dim": 12},
    "wide heads": {"attention_head_dim": 12, "num_attention_heads": 2, "cross_attention_dim": 24},
    "few waves": {"time_proj_dim": 6, "global_states_input_dim": 5},
}
THIRD: dict[str, dict[str, Any]] = {
    "as published": {},
    "no memories": {"num_memory_tokens": 0},
    "one map": {"use_differential_attention": False},
    "another hidden width": {"ff_mult": 2.5, "depth": 1},
    "other inputs": {"cond_token_dim": 12, "global_cond_dim": 5, "timestep_features_dim": 10},
}


def first(**overrides: Any) -> StableAudioDiTModel:
    settings: dict[str, Any] = {
        "sample_size": 16, "in_channels": 6, "out_channels": 6, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 4, "num_key_value_attention_heads": 2,
        "cross_attention_dim": 16, "time_proj_dim": 16, "global_states_input_dim": 20,
        "cross_attention_input_dim": 16,
    } | overrides  # fmt: skip
    made = StableAudioDiTModel(**settings).eval()
    randomise(made)
    return made


def third(**overrides: Any) -> StableAudio3DiTModel:
    settings: dict[str, Any] = {
        "io_channels": 6, "embed_dim": 32, "depth": 2, "num_heads": 4, "cond_token_dim": 16,
        "global_cond_dim": 20, "local_add_cond_dim": 7, "timestep_features_dim": 16,
        "num_memory_tokens": 3,
    } | overrides  # fmt: skip
    made = StableAudio3DiTModel(**settings).eval()
    randomise(made)
    return made


def filled(config: AudioDiTConfig, weights: Mapping[str, Tensor]) -> AudioDiT:
    made = AudioDiT(config)
    made.load_state_dict(dict(weights))
    return made.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", list(FIRST))
@pytest.mark.parametrize("num_frames", [16, 7, 1])
def test_the_first_network_is_that_of_diffusers(name: str, num_frames: int) -> None:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    reference = first(**FIRST[name])
    config = first_dit_config(reference.config)
    made = filled(config, first_dit_names(reference.state_dict()))
    x, times = noise(2, 6, num_frames), torch.tensor([0.9, 0.2])
    condition = noise(2, 5, config.condition_width, seed=2)
    vector = noise(2, config.vector_width, seed=3)
    expected = torch.cat(
        [
            reference(
                x[i : i + 1],
                times[i : i + 1],
                encoder_hidden_states=condition[i : i + 1],
                global_hidden_states=vector[i : i + 1, None],
                rotary_embedding=get_1d_rotary_pos_embed(
                    config.head_dim // 2,
                    num_frames + 1,
                    use_real=True,
                    repeat_interleave_real=False,
                ),
            ).sample
            for i in range(2)
        ]
    )
    assert expected.std() > 0.3
    found = made(x, times, condition, vector)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", list(THIRD))
@pytest.mark.parametrize("num_frames", [16, 7, 1])
def test_the_third_network_is_that_of_diffusers(name: str, num_frames: int) -> None:
    reference = third(**THIRD[name])
    config = third_dit_config(reference.config)
    weights = third_dit_names(reference.state_dict())
    padding = weights.pop("padding")
    made = filled(config, weights)
    x, times = noise(2, 6, num_frames), torch.tensor([0.9, 0.2])
    condition = noise(2, 5, config.condition_width, seed=2)
    vector, known = noise(2, config.vector_width, seed=3), noise(2, 7, num_frames, seed=4)
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    expected = reference(
        x,
        times,
        encoder_hidden_states=condition,
        encoder_attention_mask=mask,
        global_hidden_states=vector,
        local_add_cond=known,
    ).sample
    assert expected.std() > 0.3
    padded = torch.where(mask[..., None], condition, padding)
    found = made(x, times, padded, vector, known=known)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    expected = reference(x, times, padded, vector).sample
    found = made(x, times, padded, vector)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_patches_are_those_of_diffusers() -> None:
    reference = third(patch_size=2, local_add_cond_dim=7)
    weights = third_dit_names(reference.state_dict())
    weights = {n: w for n, w in weights.items() if ".known." not in n and n != "padding"}
    made = filled(third_dit_config({**reference.config, "local_add_cond_dim": 0}), weights)
    x, condition, vector = noise(1, 6, 8), noise(1, 5, 16), noise(1, 20)
    times = torch.tensor([0.3])
    expected = reference(x, times, condition, vector).sample
    torch.testing.assert_close(made(x, times, condition, vector), expected, atol=1e-4, rtol=0)
    assert made(x[..., :7], times, condition, vector).shape == (1, 6, 7)


def shape(**overrides: Any) -> AudioDiTConfig:
    settings: dict[str, Any] = {
        "width": 6, "dim": 32, "num_layers": 1, "num_heads": 4, "num_condition_heads": 2,
        "condition_width": 16, "condition_dim": 16, "vector_width": 4, "hidden_dim": 8,
    }  # fmt: skip
    return AudioDiTConfig(**(settings | overrides))


def test_impossible_shapes_are_refused() -> None:
    for wrong, message in (
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 3}, "The width of 32 must be 3 heads"),
        ({"num_condition_heads": 3}, "4 heads cannot share 3 heads of a condition equally"),
        ({"patch": 2, "known_width": 7}, "known frames needs a patch of 1"),
    ):
        with pytest.raises(ValueError, match=message):
            shape(**wrong)
    given = noise(1, 6, 4), torch.zeros(1), noise(1, 5, 16), noise(1, 4)
    with pytest.raises(ValueError, match="does not see known frames"):
        AudioDiT(shape())(*given, known=noise(1, 7, 4))


def test_the_listed_numbers_of_parameters_are_those_of_the_published_shapes() -> None:
    with torch.device("meta"):
        published = first_dit_config(StableAudioDiTModel().config)  # its defaults are those of 1.0
    small = AudioDiTConfig(
        width=64,
        dim=1024,
        num_layers=16,
        num_heads=8,
        num_condition_heads=8,
        condition_width=768,
        condition_dim=1024,
        vector_width=768,
        hidden_dim=4096,
        head_norm="layer",
    )
    counted = {}
    for name, config in (("1.0", published), ("small", small)):
        with torch.device("meta"):
            made = AudioDiT(config)
        counted[f"stable-audio-open-{name}"] = sum(x.numel() for x in made.parameters())
    listed = {one.name: one.num_parameters for one in FAMILY.models}
    assert counted == listed
