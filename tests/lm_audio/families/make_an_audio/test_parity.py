"""Make-An-Audio against a naive composition of the classes of diffusers and transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lm_audio
from lm_audio.families.make_an_audio.reading import read_make_an_audio
from lm_audio.families.make_an_audio.stages import make_an_audio
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.networks.condition import Known
from lm_audio.sampling import Denoising

Parts = dict[str, Any]
Make = Callable[..., Any]
Write = Callable[..., Path]
PROMPT, NEGATIVE = "a dog barks on tin", "low quality"
HOP, FRAME, COLUMNS, RATE = 8, 32, 4, 16_000
ATOL, CLIP_ATOL = 1e-4, 1e-3


def our_clip(folder: Path, *, steps: int, seed: int, num_frames: int, **settings: Any) -> Tensor:
    return (
        lm_audio.load(folder)
        .generate(
            PROMPT,
            duration=num_frames * FRAME / RATE,
            seed=seed,
            sampling=Denoising(steps=steps, solver="ddim", guidance_scale=3.0),
            raw=True,
            **settings,
        )
        .samples
    )


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("num_frames", [12, 8, 5])
def test_a_clip_is_that_of_the_libraries(
    parts: Parts, folder: Path, their_clip: Make, negative: str | None, num_frames: int
) -> None:
    made = our_clip(folder, steps=5, seed=3, num_frames=num_frames, negative=negative)
    expected = their_clip(parts, (negative or "", PROMPT), steps=5, seed=3, num_frames=num_frames)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(made, expected, atol=CLIP_ATOL, rtol=0)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "two blocks": {"layers_per_block": 2},
    "three levels": {
        "block_out_channels": (32, 32, 64),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 2, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 2),
    },
    "another autoencoder": {
        "vae": {
            "block_out_channels": (32, 64, 64), "layers_per_block": 2, "scaling_factor": 1.3,
            "down_block_types": (*["DownEncoderBlock2D"] * 2, "AttnDownEncoderBlock2D"),
            "up_block_types": ("AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 2),
        }
    },
    "another vocoder": {
        "vocoder": {
            "upsample_rates": [2, 2, 2], "upsample_kernel_sizes": [4, 3, 6],
            "resblock_kernel_sizes": [7], "resblock_dilation_sizes": [[1, 2, 4]],
        }
    },
    "heads": {"attention_head_dim": 4, "block_out_channels": (64, 64)},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("original", [False, True])
def test_clips_of_other_configurations_are_those_of_the_libraries(
    name: str,
    original: bool,
    make_parts: Make,
    write_parts: Write,
    write_original_parts: Write,
    their_clip: Make,
    tmp_path: Path,
) -> None:
    parts = make_parts(**CONFIGURATIONS[name], seed=len(name))
    folder = (write_original_parts if original else write_parts)(parts, tmp_path / "model")
    made = our_clip(folder, steps=2, seed=8, num_frames=11)
    expected = their_clip(parts, ("", PROMPT), steps=2, seed=8, num_frames=11)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(made, expected, atol=CLIP_ATOL, rtol=0)


@torch.no_grad()
def test_texts_are_those_of_bert_with_the_projection(parts: Parts, folder: Path) -> None:
    text = read_make_an_audio(folder).text
    for prompt in (PROMPT, "", "rain", "rain " * 75):
        made = text([prompt])
        assert made.embeddings.shape == (1, 77, 48)
        expected = parts["text_encoder"](prompt)
        torch.testing.assert_close(made.embeddings, expected, atol=ATOL, rtol=ATOL)


def inpainting(make_parts: Make, write_parts: Write, folder: Path) -> tuple[Parts, DiffusionStage]:
    parts = make_parts(in_channels=9)
    stage = make_an_audio(read_make_an_audio(write_parts(parts, folder))).stages[0]
    assert isinstance(stage, DiffusionStage)
    return parts, stage


@torch.no_grad()
@pytest.mark.parametrize("hidden", [(0, 12), (3, 8), (12, 12), (0, 5)])
def test_the_network_for_inpainting_is_that_of_diffusers(
    hidden: tuple[int, int], make_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    parts, stage = inpainting(make_parts, write_parts, tmp_path / "model")
    assert stage.sees_known
    torch.manual_seed(0)
    x, latents = torch.randn(1, 16, 12), torch.randn(1, 16, 12)
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[:, hidden[0] : hidden[1]] = False
    values = latents * mask
    tokens = parts["text_encoder"](PROMPT)
    fused = stage.conditioners.fused({"text": stage.conditioners["text"]([PROMPT])})
    known = Known(values=values, mask=mask)
    made = stage.network(x, torch.tensor([321.0]), fused, known=known)

    vae, scale = parts["vae"], parts["vae"].config.scaling_factor
    mel = vae.decode(values.view(1, 4, COLUMNS, 12) / scale).sample
    mel[..., 4 * hidden[0] : 4 * hidden[1]] = -5.0  # silence: log10 of the floor
    around = vae.encode(mel).latent_dist.mean * scale
    shown = F.interpolate(1 - 2 * mask[:, None, None].float(), (COLUMNS, 12))
    given = torch.cat([x.view(1, 4, COLUMNS, 12), around, shown], dim=1)
    expected = parts["unet"](given, 321, encoder_hidden_states=tokens).sample
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(made, expected.flatten(1, 2), atol=ATOL, rtol=ATOL)


def test_default_settings_are_those_of_the_original(folder: Path) -> None:
    stage = lm_audio.load(folder).stages["diffusion"]
    assert stage.sampling == Denoising(guidance_scale=3.0)
