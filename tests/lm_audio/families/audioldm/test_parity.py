"""AudioLDM and AudioLDM 2 against diffusers' pipelines, in whole clips and part by part."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AudioLDM2Pipeline, DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.pipelines.audioldm2 import pipeline_audioldm2
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

import lm_audio
from lm_audio.families.audioldm.reading import read_audioldm
from lm_audio.families.audioldm.stages import audioldm
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.direct_stage import DirectStage
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising, gaussians

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
PROMPT, NEGATIVE = "a dog barks on tin", "low quality"
ATOL = 1e-4
CLIP_ATOL = 1e-3


@pytest.fixture(autouse=True)
def any_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers gives the prompt to tokenizers of certain classes only."""
    monkeypatch.setattr(pipeline_audioldm2, "T5TokenizerFast", PreTrainedTokenizerFast)


def reference(parts: dict[str, Any], **replaced: Any) -> AudioLDM2Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = AudioLDM2Pipeline(**{**parts, **replaced})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(seed: int, *, rows: int, num_frames: int) -> Tensor:
    """The first noise of our clip, [D, T]."""
    return gaussians(seed, "diffusion/0/start", 0, num_frames, rows)


def embedded(pipeline: AudioLDM2Pipeline, text: str) -> tuple[Tensor, Tensor]:
    """A prompt through diffusers, by itself: T5's embeddings and the language of audio."""
    words, _, language = pipeline.encode_prompt(text, "cpu", 1, False)
    return words, language


def their_clip(
    parts: dict[str, Any], *, negative: str, steps: int, seed: int, num_frames: int, **replaced: Any
) -> Tensor:
    pipeline = reference(parts, **replaced)
    (words, language), (other_words, other) = (
        embedded(pipeline, text) for text in (PROMPT, negative)
    )
    L = words.shape[1]
    mask = torch.ones(1, L, dtype=torch.int64)
    other_mask = F.pad(mask[:, : other_words.shape[1]], (0, L - other_words.shape[1]))
    flat = noise(seed, rows=16, num_frames=num_frames)
    rate = parts["vocoder"].config.sampling_rate
    made = pipeline(
        prompt_embeds=words,
        generated_prompt_embeds=language,
        attention_mask=mask,
        negative_prompt_embeds=F.pad(other_words, (0, 0, 0, L - other_words.shape[1])),
        negative_generated_prompt_embeds=other,
        negative_attention_mask=other_mask,
        latents=flat.view(4, 4, num_frames).transpose(1, 2)[None],
        num_inference_steps=steps,
        guidance_scale=3.5,
        audio_length_in_s=num_frames * 16 / rate,
        output_type="pt",
    )
    return made.audios


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("num_frames", [12, 9, 5])
def test_a_clip_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path, negative: str | None, num_frames: int
) -> None:
    model = lm_audio.load(folder)
    clip = model.generate(
        PROMPT,
        duration=num_frames * 16 / 1600,
        seed=3,
        negative=negative,
        sampling=Denoising(steps=5, solver="ddim"),
        raw=True,
    )
    expected = their_clip(parts, negative=negative or "", steps=5, seed=3, num_frames=num_frames)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(clip.samples, expected, atol=CLIP_ATOL, rtol=0)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "wider": {"block_out_channels": (12, 24), "heads": 4},
    "more levels": {
        "block_out_channels": (8, 12, 16), "cross_attention_dim": [[None, 16, 20]] * 3,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "attention in all levels": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    },
    "more blocks": {"layers_per_block": 2, "transformer_layers_per_block": 2},
    "blocks by level": {"layers_per_block": (2, 1), "attention_head_dim": (2, 4)},
    "four transformers": {"cross_attention_dim": [[None, 16, 20, None]] * 2},
    "no self-attention": {"cross_attention_dim": [[16, 16, 20]] * 2},
    "linear projections": {"use_linear_projection": True, "norm_num_groups": 2},
    "other waves": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3},
    "another autoencoder": {
        "vae": {
            "block_out_channels": (12, 12), "layers_per_block": 2, "norm_num_groups": 3,
            "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), "scaling_factor": 1.7,
        }
    },
    "another vocoder": {
        "vocoder": {
            "upsample_rates": [2, 2, 2], "upsample_kernel_sizes": [4, 3, 6],
            "normalize_before": True, "upsample_initial_channel": 16, "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1]], "leaky_relu_slope": 0.2,
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_clips_of_other_configurations_are_those_of_diffusers(
    name: str, make_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    parts = make_parts(**CONFIGURATIONS[name], seed=len(name))
    model = lm_audio.load(write_parts(parts, tmp_path))
    sampling = Denoising(steps=2, solver="ddim")
    clip = model.generate(PROMPT, duration=0.11, seed=8, sampling=sampling, raw=True)
    expected = their_clip(parts, negative="", steps=2, seed=8, num_frames=11)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(clip.samples, expected, atol=CLIP_ATOL, rtol=0)


class SameSteps(DPMSolverMultistepScheduler):
    """DPM-Solver++ at the training steps of DDIM."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        ddim = DDIMScheduler.from_config(self.config)
        ddim.set_timesteps(num_inference_steps)
        super().set_timesteps(timesteps=ddim.timesteps.tolist(), device=device)


def test_a_clip_of_the_default_solver_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path
) -> None:
    settings = dict(parts["scheduler"].config) | {"final_sigmas_type": "sigma_min"}
    clip = lm_audio.load(folder).generate(
        PROMPT, duration=0.12, seed=4, sampling=Denoising(steps=7), raw=True
    )
    scheduler = SameSteps.from_config(settings)
    expected = their_clip(parts, negative="", steps=7, seed=4, num_frames=12, scheduler=scheduler)
    torch.testing.assert_close(clip.samples, expected, atol=CLIP_ATOL, rtol=0)


def test_the_language_of_audio_is_that_of_diffusers(parts: dict[str, Any], folder: Path) -> None:
    pipeline, model = reference(parts), audioldm(read_audioldm(folder))
    stage = model.stages[0]
    assert isinstance(stage, DirectStage)
    for text in (PROMPT, "", "rain"):
        words, language = embedded(pipeline, text)
        condition = stage.conditioners["text"]([text])
        assert condition.embeddings.shape == (1, 1 + words.shape[1], 20)
        torch.testing.assert_close(condition.embeddings[0, 1:], words[0], atol=ATOL, rtol=ATOL)
        made = stage.values_of({"text": text})
        torch.testing.assert_close(made, language[0].T, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("head", [True, False])
def test_gpt2_is_that_of_transformers_however_it_is_stored(
    parts: dict[str, Any], write_parts: Write, tmp_path: Path, head: bool
) -> None:
    language: GPT2LMHeadModel = parts["language_model"]
    stored = language if head else language.transformer
    folder = write_parts({**parts, "language_model": stored}, tmp_path)
    ours = read_audioldm(folder).language
    assert ours is not None
    torch.manual_seed(0)
    x = torch.randn(1, 9, 16)
    expected = x
    with torch.no_grad():
        for _ in range(5):
            out = language.transformer(inputs_embeds=expected).last_hidden_state
            expected = torch.cat([expected, out[:, -1:]], dim=1)
        made = ours.gpt2.continued(x, num_steps=5)
    torch.testing.assert_close(made, expected[:, 9:], atol=ATOL, rtol=ATOL)


def test_the_network_of_a_loaded_model_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path
) -> None:
    stage = audioldm(read_audioldm(folder)).stages[-1]
    assert isinstance(stage, DiffusionStage)
    torch.manual_seed(0)
    language, x = torch.randn(16, 8), torch.randn(1, 16, 12)
    fused = stage.conditioners.fused(
        {
            "text": stage.conditioners["text"]([PROMPT]),
            "audio_language": stage.conditioners["audio_language"]([language]),
        }
    )
    words = stage.conditioners["text"]([PROMPT]).embeddings[:, 1:]
    with torch.no_grad():
        made = stage.network(x, torch.tensor([321.0]), fused)
        expected = parts["unet"](
            x.view(1, 4, 4, 12).transpose(2, 3),
            321,
            language.T[None],
            encoder_hidden_states_1=words,
        ).sample
    expected = expected.transpose(2, 3).flatten(1, 2)
    torch.testing.assert_close(made, expected, atol=ATOL, rtol=ATOL)


def test_a_clip_of_the_first_audioldm_is_that_of_diffusers(
    make_first_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    from diffusers import AudioLDMPipeline

    parts = make_first_parts()
    folder = write_parts(parts, tmp_path, name="AudioLDMPipeline")
    model = lm_audio.load(folder)
    assert list(model.stages) == ["diffusion"]
    clip = model.generate(
        PROMPT, duration=0.12, seed=3, sampling=Denoising(steps=4, solver="ddim"), raw=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = AudioLDMPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    flat = noise(3, rows=16, num_frames=12)
    expected = pipeline(
        PROMPT,
        latents=flat.view(4, 4, 12).transpose(1, 2)[None],
        num_inference_steps=4,
        guidance_scale=3.5,
        audio_length_in_s=0.12,
        output_type="pt",
    ).audios
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(clip.samples, expected, atol=CLIP_ATOL, rtol=0)


def test_default_settings_are_those_of_the_original(
    folder: Path, make_first_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    second = AudioPipeline(audioldm(read_audioldm(folder))).stages["diffusion"]
    assert second.sampling == Denoising(steps=20, solver="dpm++2m", guidance_scale=3.5)
    written = write_parts(make_first_parts(), tmp_path, name="AudioLDMPipeline")
    first = AudioPipeline(audioldm(read_audioldm(written))).stages["diffusion"]
    assert first.sampling == Denoising(guidance_scale=2.5)
