"""Riffusion against diffusers' Stable Diffusion: images from text, from images and with masks."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

import lm_audio
from audio_tokenizers.spectrogram_image import USUAL_MAXIMUM, ImageSettings, ImageSound
from lm_audio.families.riffusion.reading import read_riffusion
from lm_audio.families.riffusion.text import weighted_pieces
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.track import Track, Variation, unknown_values
from lm_audio.networks.blocks2d import Context
from lm_audio.renderers.image_latents import ImageRenderer
from lm_audio.sampling import Denoising, gaussians
from lm_audio.saving.unets import schedule_of
from tests.lm_audio.tracks_only import finish

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
PROMPT, NEGATIVE = "funky synth solo", "low quality"
ATOL = 1e-4
CLIP_ATOL = 1e-3
ROWS = 8  # of latents, in 4 channels


def reference(kind: Any, parts: dict[str, Any], **replaced: Any) -> Any:
    given = {**parts, **replaced, "unet": copy.deepcopy(parts["unet"])}
    given["unet"].register_to_config(sample_size=ROWS)  # some pipelines compare it with a number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = kind(
            **given, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(seed: int, num_frames: int) -> Tensor:
    """The first noise of our clip as diffusers' latents, [1, 4, H, W]."""
    made = gaussians(seed, "diffusion/0/start", 0, num_frames, 4 * ROWS)
    return made.view(1, 4, ROWS, num_frames)


def images(parts: dict[str, Any], num_frames: int, **settings: Any) -> Tensor:
    """diffusers' image of our prompts: [3, H, W] within 0..1."""
    solver = settings.pop("scheduler", parts["scheduler"])
    given: dict[str, Any] = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 7.0, "height": 2 * ROWS,
        "width": 2 * num_frames, "output_type": "np", "num_inference_steps": 5,
        "latents": noise(3, num_frames),
    } | settings  # fmt: skip
    made = reference(StableDiffusionPipeline, parts, scheduler=solver)(**given).images
    return torch.from_numpy(made[0]).permute(2, 0, 1)


def latents(folder: Path, num_frames: int, **settings: Any) -> tuple[Any, Tensor]:
    """Our model and its latents [D, T]."""
    model = lm_audio.load(folder)
    given: dict[str, Any] = {
        "sampling": Denoising(steps=5, solver="ddim", guidance_scale=7.0),
        "negative": NEGATIVE, "seed": 3, "duration": num_frames * 32 / 1600,
    } | settings  # fmt: skip
    clip = model.generate(PROMPT, **given)
    return model, clip.stage_values["diffusion"]


@pytest.mark.parametrize("num_frames", [12, 8, 4])
def test_an_image_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path, num_frames: int
) -> None:
    model, values = latents(folder, num_frames)
    renderer: ImageRenderer = model.renderer
    expected = images(parts, num_frames)
    assert expected.std() > 0.05
    torch.testing.assert_close(renderer.to_image(values), expected, atol=CLIP_ATOL, rtol=0)


def test_a_clip_is_the_sound_of_diffusers_image(parts: dict[str, Any], folder: Path) -> None:
    model, values = latents(folder, 12)
    sound = ImageSound(ImageSettings(sample_rate=1600, num_mels=16, high=700))
    image = model.renderer.to_image(values)
    torch.testing.assert_close(image, images(parts, 12), atol=CLIP_ATOL, rtol=0)
    expected = torch.cat([sound.push(image), sound.finish()], dim=1)
    torch.testing.assert_close(model.renderer.render(values), expected)
    mel = ((1 - image.mean(dim=0).flip(0)) ** 4) * USUAL_MAXIMUM  # Riffusion's formula
    assert float(mel.max()) > 0
    sampling = Denoising(steps=5, solver="ddim", guidance_scale=7.0)
    clip = model.generate(
        PROMPT, duration=0.24, seed=3, negative=NEGATIVE, sampling=sampling, raw=True
    )
    torch.testing.assert_close(clip.samples, expected)


@pytest.mark.parametrize("kind", [DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("steps", [4, 20, 50])
def test_levels_are_those_of_stable_diffusions_schedule(kind: Any, steps: int) -> None:
    """Whichever scheduler a folder names; its settings are those of the published models."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = kind(**config, steps_offset=1, timestep_spacing="leading")
    schedule, predicts = schedule_of({**scheduler.config, "clip_sample": False})
    assert predicts == "epsilon"
    levels = schedule.levels(steps)
    ddim = DDIMScheduler(**config, steps_offset=1)
    ddim.set_timesteps(steps)
    assert list(levels.time) == ddim.timesteps.tolist()
    power = ddim.alphas_cumprod[ddim.timesteps].double()
    found = torch.tensor([levels.alpha[:-1], levels.sigma[:-1]], dtype=torch.float64)
    expected = torch.stack([power.sqrt(), (1 - power).sqrt()])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


class SameSteps(DPMSolverMultistepScheduler):
    """DPM-Solver++ at the training steps of DDIM."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        ddim = DDIMScheduler.from_config(self.config)
        ddim.set_timesteps(num_inference_steps)
        super().set_timesteps(timesteps=ddim.timesteps.tolist(), device=device)


def test_other_solvers_are_those_of_diffusers(parts: dict[str, Any], folder: Path) -> None:
    config = parts["scheduler"].config
    solver = SameSteps.from_config(config, final_sigmas_type="sigma_min")
    expected = images(parts, 12, scheduler=solver)
    sampling = Denoising(steps=5, solver="dpm++2m", guidance_scale=7.0)
    model, values = latents(folder, 12, sampling=sampling)
    torch.testing.assert_close(model.renderer.to_image(values), expected, atol=CLIP_ATOL, rtol=0)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "wider": {"block_out_channels": (12, 24), "attention_head_dim": 4},
    "three levels": {
        "block_out_channels": (8, 12, 16), "attention_head_dim": (2, 4, 2),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "more blocks": {"layers_per_block": 2, "transformer_layers_per_block": 2},
    "linear projections": {"use_linear_projection": True, "norm_num_groups": 2},
    "other waves": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3},
    "another autoencoder": {
        "vae": {
            "block_out_channels": (12, 12), "layers_per_block": 2, "norm_num_groups": 3,
            "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), "scaling_factor": 1.7,
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_networks_of_other_configurations_are_those_of_diffusers(
    name: str, make_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    parts = make_parts(**CONFIGURATIONS[name], seed=len(name))
    ours = read_riffusion(write_parts(parts, tmp_path))
    x, words = torch.randn(2, 4, ROWS, 11), torch.randn(2, 12, 20)
    times = torch.tensor([3.0, 801.0])
    context = [Context(tokens=words)]
    with torch.no_grad():
        expected = parts["unet"](x, times, words).sample
        torch.testing.assert_close(ours.unet(x, times, context), expected, atol=ATOL, rtol=0)
        images = torch.randn(2, 3, 16, 22)
        latent = parts["vae"].encode(images).latent_dist
        for found, wanted in zip(
            ours.renderer.autoencoder.encode(images),  # type: ignore[operator]
            (latent.mean, latent.std),
            strict=True,
        ):
            torch.testing.assert_close(found, wanted, atol=ATOL, rtol=ATOL)
        decoded = parts["vae"].decode(latent.mean).sample
        found = ours.renderer.autoencoder.decode(latent.mean)  # type: ignore[operator]
        torch.testing.assert_close(found, decoded, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("text", ["", "jazz", "rain on tin", "funky " * 30])
@pytest.mark.filterwarnings("ignore:A text of")
def test_texts_are_embedded_as_in_diffusers(parts: dict[str, Any], folder: Path, text: str) -> None:
    found = read_riffusion(folder).text.encode(text)
    pipeline = reference(StableDiffusionPipeline, parts)
    expected, _ = pipeline.encode_prompt(text, "cpu", 1, False)
    torch.testing.assert_close(found, expected[0], atol=ATOL, rtol=0)


def test_weighted_words_are_multiplied_and_the_mean_kept(folder: Path) -> None:
    encode = read_riffusion(folder).text.encode
    plain = encode("funky synth solo rain jazz")  # 5 words after the start
    weights = torch.tensor([1, 1, 1.5, 1.5, 1, 0.5, *[1.0] * 6])
    expected = plain * weights[:, None]
    expected = expected * (plain.mean() / expected.mean())
    found = encode("funky (synth solo:1.5) rain (jazz:0.5)")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(encode("(funky synth:1) solo rain jazz"), plain)
    with pytest.warns(UserWarning, match="truncated to 12"):
        assert encode("(funky:2) " * 30).shape == (12, 20)
    assert weighted_pieces("a (b:2), c (d) e:3") == [("a", 1), ("b", 2), (", c (d) e:3", 1)]


def track(values: Tensor, **settings: Any) -> Track:
    given: dict[str, Any] = {
        "seed": 3, "sampling": Denoising(steps=6, solver="ddim", guidance_scale=7.0),
        "conditions": {"text": PROMPT}, "negative": {"text": NEGATIVE},
    } | settings  # fmt: skip
    return Track(values=values, **given)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_variation_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers takes the image as latents, and the noise of our clip."""
    (stage,) = lm_audio.load(folder).model.stages
    assert isinstance(stage, DiffusionStage)
    torch.manual_seed(0)
    original = torch.randn(1, 4, ROWS, 12)
    made = track(
        unknown_values(stage.makes, 12, torch.device("cpu")),
        variation=Variation(values=original[0].flatten(0, 1), strength=strength),
    )
    finish([stage], [made])
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as module

    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise(3, 12))
    expected = reference(StableDiffusionImg2ImgPipeline, parts)(
        prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=7.0, image=original,
        strength=strength, num_inference_steps=6, output_type="latent",
    ).images  # fmt: skip
    found = made.values.view(4, ROWS, 12)
    torch.testing.assert_close(found, expected[0], atol=CLIP_ATOL, rtol=0)


def test_an_inpainted_span_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both put the rest back with its noise after each step; ours does before the first, too."""
    model = lm_audio.load(folder)
    (stage,) = model.model.stages
    assert isinstance(stage, DiffusionStage)
    torch.manual_seed(0)
    image = torch.rand(1, 3, 2 * ROWS, 24)
    known = model.renderer.from_image(image[0])  # type: ignore[attr-defined]
    values = known.clone()
    values[:, 4:9] = torch.nan
    made = track(values)
    finish([stage], [made])
    mask = torch.zeros(1, 1, 2 * ROWS, 24)
    mask[..., 8:18] = 1
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as module

    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise(3, 12))
    monkeypatch.setattr(  # the mean instead of a random latent
        module, "retrieve_latents", lambda found, **_: found.latent_dist.mean
    )
    pipeline = reference(StableDiffusionInpaintPipeline, parts)
    prepare = pipeline.prepare_latents

    def with_known(*given: Any, **settings: Any) -> Any:
        latents, *others = prepare(*given, **settings)
        first = pipeline.scheduler.timesteps[:1]
        noisy = pipeline.scheduler.add_noise(known.view(1, 4, ROWS, 12), noise(3, 12), first)
        return torch.where(mask[:, :, ::2, ::2] > 0, latents, noisy), *others

    pipeline.prepare_latents = with_known
    expected = pipeline(
        prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=7.0, image=image, mask_image=mask,
        height=2 * ROWS, width=24, strength=1.0, num_inference_steps=6, output_type="latent",
    ).images  # fmt: skip
    found = made.values.view(4, ROWS, 12)
    torch.testing.assert_close(found[..., 4:9], expected[0][..., 4:9], atol=CLIP_ATOL, rtol=0)
    assert torch.equal(found[..., :4], known.view(4, ROWS, 12)[..., :4])


def test_a_moment_between_two_prompts_is_that_of_riffusion(
    parts: dict[str, Any], folder: Path
) -> None:
    """Half way: the mean of the texts' embeddings, and noise on the arc, here for each frame."""
    model = lm_audio.load(folder)
    given: Any = [(0.0, PROMPT, {"seed": 3}), (0.24, "rain on tin", {"over": 0.24, "seed": 4})]
    sampling = Denoising(steps=5, solver="ddim", guidance_scale=7.0)
    clip = model.generate(given, duration=0.24, seed=9, negative=NEGATIVE, sampling=sampling)
    pipeline = reference(StableDiffusionPipeline, parts)
    texts = [pipeline.encode_prompt(x, "cpu", 1, False)[0] for x in (PROMPT, "rain on tin")]
    a, b = (noise(seed, 12)[0].flatten(0, 1).double() for seed in (3, 4))
    angle = torch.acos((a * b).sum(dim=0) / a.norm(dim=0) / b.norm(dim=0))
    share = torch.arange(12) / 12
    arc = ((1 - share) * angle).sin() * a + (share * angle).sin() * b
    latents = (arc / angle.sin()).float().view(1, 4, ROWS, 12)
    settings: dict[str, Any] = {"prompt": None, "prompt_embeds": (texts[0] + texts[1]) / 2}
    expected = images(parts, 12, latents=latents, **settings)
    found = model.renderer.to_image(clip.stage_values["diffusion"])  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected, atol=CLIP_ATOL, rtol=0)
