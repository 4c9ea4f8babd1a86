"""Stable Audio 3 against diffusers' pipeline, and its promises."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5GemmaConfig, T5GemmaEncoderModel

import lm_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising, gaussians
from tests.lm_audio.families.stable_audio.conftest import WORDS, word_tokenizer, write
from tests.lm_audio.families.stable_audio.random_weights import randomise

diffusers: Any = pytest.importorskip("diffusers", minversion="0.42")
AutoencoderSAME = diffusers.AutoencoderSAME
FlowMatchEulerDiscreteScheduler = diffusers.FlowMatchEulerDiscreteScheduler
StableAudio3DiTModel = diffusers.StableAudio3DiTModel
StableAudio3InpaintPipeline = diffusers.StableAudio3InpaintPipeline

Make = Callable[..., dict[str, Any]]
PROMPT, NEGATIVE = "a dog barks on tin", "low quality"
RATE, HOP, WIDTH = 1600, 16, 6
FEW = Denoising(steps=3, solver="ping-pong", guidance_scale=1.0)
LONG = 0.6  # 60 frames, in windows of 30


def small_gemma() -> T5GemmaEncoderModel:
    shape = {
        "vocab_size": 3 + len(WORDS), "hidden_size": 16, "intermediate_size": 24, "head_dim": 4,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "query_pre_attn_scalar": 4,
    }  # fmt: skip
    config = T5GemmaConfig(encoder=shape, decoder=shape, is_encoder_decoder=False)
    return T5GemmaEncoderModel(config)


def third_parts(**overrides: Any) -> dict[str, Any]:
    """The parts of a Stable Audio 3; overrides are settings of parts, by their name."""
    from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import (
        StableAudio3DurationEmbedder,
    )

    dit: dict[str, Any] = {
        "io_channels": WIDTH, "embed_dim": 32, "depth": 2, "num_heads": 4, "cond_token_dim": 16,
        "global_cond_dim": 16, "local_add_cond_dim": 1 + WIDTH, "timestep_features_dim": 16,
        "num_memory_tokens": 3,
    } | overrides.get("transformer", {})  # fmt: skip
    vae: dict[str, Any] = {
        "patch_size": 4, "encoder_channels": 8, "encoder_c_mults": [3], "encoder_strides": [4],
        "encoder_transformer_depths": [2], "latent_dim": WIDTH, "dim_heads": 8,
        "sampling_rate": RATE,
    } | overrides.get("vae", {})  # fmt: skip
    parts: dict[str, Any] = {
        "transformer": StableAudio3DiTModel(**dit),
        "vae": AutoencoderSAME(**vae),
        "text_encoder": small_gemma(),
        "duration_embedder": StableAudio3DurationEmbedder(16, 8, max_val=0.3),
    }
    for part in parts.values():
        randomise(part)
        part.eval()
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1, stochastic_sampling=overrides.get("stochastic", True)
    )
    return {**parts, "scheduler": scheduler, "tokenizer": word_tokenizer()}


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    parts = third_parts()
    folder = tmp_path_factory.mktemp("stable_audio_3")
    return parts, write(parts, folder, name="StableAudio3Pipeline")


@pytest.fixture(scope="module")
def model(third: tuple[dict[str, Any], Path]) -> AudioPipeline:
    return lm_audio.load(third[1])


def noise(step: object, num_frames: int) -> Tensor:
    """The noise of our clip, [1, D, T]."""
    return gaussians(3, f"diffusion/0/{step}", 0, num_frames, WIDTH)[None]


def their_clip(
    monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any], *, steps: int, num_frames: int
) -> Tensor:
    """With nothing known: the published network always gets a mask, unlike in the other pipeline.

    The pipeline limits samples to 1, so its decoder's output is recorded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableAudio3InpaintPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    drawn = iter([noise(i, num_frames) for i in range(steps)])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor",
        lambda *_, **__: next(drawn),
        raising=False,
    )
    monkeypatch.setattr(torch, "randn_like", lambda *_, **__: next(drawn))
    latents = pipeline(
        PROMPT,
        audio=torch.zeros(1, 2, num_frames * HOP),
        mask=torch.zeros(1, 1, num_frames),
        duration=num_frames * HOP / RATE,
        num_inference_steps=steps,
        latents=noise("start", num_frames),
        output_type="latent",
    ).audios
    monkeypatch.undo()
    with torch.no_grad():
        return parts["vae"].decode(latents).sample[0]


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("num_frames", [16, 5])
def test_a_clip_is_that_of_diffusers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stochastic: bool, num_frames: int
) -> None:
    parts = third_parts(stochastic=stochastic)
    model = lm_audio.load(write(parts, tmp_path, name="StableAudio3Pipeline"))
    solver: Any = "ping-pong" if stochastic else "euler"
    clip = model.generate(
        PROMPT,
        duration=num_frames * HOP / RATE,
        seed=3,
        sampling=Denoising(steps=8, solver=solver, guidance_scale=1.0),
        raw=True,
    )
    expected = their_clip(monkeypatch, parts, steps=8, num_frames=num_frames)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(clip.samples, expected, atol=1e-3, rtol=0)
    other = model.generate(NEGATIVE, duration=num_frames * HOP / RATE, seed=3, raw=True)
    assert (other.samples - expected).abs().max() > 0.05  # prompts are heard


def test_the_published_settings_are_the_default(model: AudioPipeline, tmp_path: Path) -> None:
    (stage,) = model.model.stages
    assert stage.sampling == Denoising(steps=8, solver="ping-pong", guidance_scale=1.0)
    assert stage.window_frames == 30
    base = write(third_parts(stochastic=False), tmp_path, name="StableAudio3Pipeline")
    (stage,) = lm_audio.load(base).model.stages
    assert stage.sampling == Denoising(steps=50, solver="euler", guidance_scale=7.0)


def clip(model: AudioPipeline, text: Any = "a dog barks", **settings: Any) -> Tensor:
    given = {"duration": 0.16, "seed": 5, "sampling": FEW} | settings
    return model.generate(text, **given).samples


def tones(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.stack([torch.sin(2 * torch.pi * f * time) for f in (100, 150)])


@pytest.mark.parametrize("duration", [1 / RATE, 0.16, 0.1607, LONG])
def test_durations_are_exact(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration)
    assert made.shape == (2, round(duration * RATE))
    assert made.isfinite().all()


def test_a_clip_is_the_same_alone_in_a_batch_and_streamed(model: AudioPipeline) -> None:
    alone = clip(model, "rain on tin", duration=LONG, seed=7)
    batch = model.generate(
        ["a dog barks", "rain on tin", None],
        duration=[0.05, LONG, 0.16],
        seed=[1, 7, 3],
        sampling=FEW,
    )
    assert torch.equal(batch[1].samples, alone)
    assert torch.equal(batch[2].samples, clip(model, None, seed=3))
    pieces = list(model.stream("rain on tin", duration=LONG, seed=7, sampling=FEW))
    assert torch.equal(torch.cat(pieces, dim=1), alone)


def test_prompts_are_kept_and_heard(model: AudioPipeline) -> None:
    prompt = tones(0.2)
    made = model.continue_from((prompt, RATE), duration=0.2, seed=3, sampling=FEW).samples
    assert torch.equal(made[:, :320], prompt)
    filled = model.inpaint(
        (tones(0.3), RATE), start=0.1, end=0.15, text="rain", seed=3, sampling=FEW
    ).samples
    assert torch.equal(filled[:, :160], tones(0.3)[:, :160])
    assert torch.equal(filled[:, 240:], tones(0.3)[:, 240:])
    other = model.continue_from((-prompt, RATE), duration=0.2, seed=3, sampling=FEW).samples
    assert not torch.allclose(made[:, 320:], other[:, 320:], atol=1e-3)


def test_a_variation_a_loop_and_a_story(model: AudioPipeline) -> None:
    varied = model.vary((tones(0.2), RATE), strength=0.5, text="rain", seed=1, sampling=FEW)
    assert varied.samples.shape == (2, 320)
    made = model.generate("rain", duration=0.16, seed=5, loop=True, sampling=FEW, raw=True)
    latents = torch.cat([made.stage_values["diffusion"]] * 3, dim=1)
    around = model.model.renderer.render(latents)[:, 256:512]
    torch.testing.assert_close(made.samples, around, atol=1e-4, rtol=0)
    story = [(0.0, "rain"), (0.3, "a dog barks")]
    assert not torch.allclose(
        clip(model, story, duration=LONG), clip(model, "rain", duration=LONG), atol=1e-3
    )


def test_guidance_takes_a_negative_prompt(model: AudioPipeline) -> None:
    guided = Denoising(steps=3, solver="euler", guidance_scale=3.0)
    plain = clip(model, sampling=guided)
    assert not torch.allclose(clip(model, sampling=guided, negative=NEGATIVE), plain, atol=1e-3)
    with pytest.warns(UserWarning, match="truncated to 8, the limit of its encoder"):
        clip(model, "rain " * 20)


@pytest.fixture
def copy(third: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    shutil.copytree(third[1], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "part",
    ["transformer", "vae", "text_encoder", "tokenizer", "duration_embedder", "scheduler"],
)
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=rf"/{part}.*Download the whole model"):
        lm_audio.load(copy)


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("transformer/config.json", {"depth": 0}, "num_layers must be at least 1, got 0"),
        ("transformer/config.json", {"patch_size": 2}, "known frames needs a patch of 1"),
        ("transformer/config.json", {"local_add_cond_dim": 5}, "shapes that do not match"),
        ("transformer/config.json", {"num_heads": 5}, "The width of 32 must be 5 heads"),
        ("vae/config.json", {"dim_heads": 6}, "cannot be split into heads of 6"),
        ("vae/config.json", {"encoder_c_mults": [10**9]}, "is not supported|do not match"),
        ("vae/config.json", {"encoder_transformer_depths": [10**9]}, "depths must be at most 1000"),
        ("duration_embedder/config.json", {"fourier_dim": 10**9}, "1 to 1000000 frequencies"),
        ("vae/config.json", {"encoder_strides": []}, "for each of the rates"),
        ("scheduler/scheduler_config.json", {"shift": 3.0}, "shift is 3.0; expected 1.0"),
        ("duration_embedder/config.json", {"max_val": -1.0}, "low < high, got 0.0 to -1.0"),
        ("text_encoder/config.json", {"model_type": "t5"}, "type t5; expected type t5gemma"),
    ],
)
def test_other_settings_are_refused(
    copy: Path, path: str, settings: dict[str, Any], message: str
) -> None:
    file = copy / path
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(ValueError, match=message):
        lm_audio.load(copy)


def test_damaged_weights_are_refused(copy: Path) -> None:
    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({n: w for n, w in weights.items() if n != "prompt_padding_embedding"}, path)
    with pytest.raises(ValueError, match=r"has no prompt_padding_embedding of \[16\]"):
        lm_audio.load(copy)
    save_file({n: w for n, w in weights.items() if "to_local_embed" not in n}, path)
    with pytest.raises(ValueError, match=r"missing or unexpected weights: blocks\.0\.known"):
        lm_audio.load(copy)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        lm_audio.load(copy)


def test_bfloat16_is_close(third: tuple[dict[str, Any], Path]) -> None:
    exact, rounded = (
        lm_audio.load(third[1], dtype=dtype).generate(
            "rain", duration=0.16, seed=1, sampling=FEW, raw=True
        )
        for dtype in ("float32", "bfloat16")
    )
    error = (exact.samples - rounded.samples).norm() / exact.samples.norm()
    assert 0 < error < 0.15, error
