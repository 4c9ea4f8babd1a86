"""The layout of stable-audio-tools: the same weights under other names give the same clip."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn

import lm_audio
from lm_audio.sampling import Denoising, gaussians
from tests.lm_audio.families.stable_audio.tools import settings_of, weights_of, write_tools

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
PROMPT, NEGATIVE = "a dog barks on tin", "low quality"
RATE, HOP, WIDTH, HEAD = 1600, 8, 6, 64
WIDE = {
    "attention_head_dim": HEAD, "num_attention_heads": 2, "num_key_value_attention_heads": 1,
    "cross_attention_dim": 64, "cross_attention_input_dim": 64, "global_states_input_dim": 128,
    "time_proj_dim": 256,
}  # fmt: skip
PROJECTED = {"text_encoder_dim": 16, "conditioning_dim": 64}
SAMPLING = Denoising(steps=4, solver="dpm++2m-sde", guidance_scale=3.0)


@pytest.fixture(scope="module")
def wide(make_parts: Make) -> dict[str, Any]:
    """Heads of 64: smaller ones are rotated otherwise in stable-audio-tools."""
    return make_parts(transformer=WIDE, projection_model=PROJECTED)


@pytest.fixture(scope="module")
def tools_folder(wide: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tools(wide, tmp_path_factory.mktemp("tools"))


def made(folder: Path, **settings: Any) -> Tensor:
    given = {"duration": 0.31, "seed": 3, "sampling": SAMPLING, "raw": True} | settings
    return lm_audio.load(folder).generate(PROMPT, **given).samples


def test_a_clip_is_that_of_the_other_layout(
    wide: dict[str, Any], write_parts: Write, tools_folder: Path, tmp_path: Path
) -> None:
    folder = write_parts(wide, tmp_path / "diffusers")
    for negative in (None, NEGATIVE):
        expected = made(folder, negative=negative)
        assert expected.abs().max() > 0.1
        found = made(tools_folder, negative=negative)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"vae": {"audio_channels": 1, "downsampling_ratios": [4], "channel_multiples": [3]}},
        {
            "transformer": {**WIDE, "num_key_value_attention_heads": 2, "cross_attention_dim": 128},
            "projection_model": {**PROJECTED, "min_value": -1, "max_value": 3},
        },
    ],
    ids=["another autoencoder", "a projected condition"],
)
def test_odd_configurations_are_those_of_the_other_layout(
    make_parts: Make, write_parts: Write, tmp_path: Path, change: dict[str, Any]
) -> None:
    parts = make_parts(**({"transformer": WIDE, "projection_model": PROJECTED} | change))
    expected = made(write_parts(parts, tmp_path / "diffusers"))
    assert expected.abs().max() > 0.1
    found = made(write_tools(parts, tmp_path / "tools"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_checkpoint_in_torchs_format_is_read_without_running_it(
    wide: dict[str, Any], tools_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(tools_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": weights_of(wide)}, folder / "model.ckpt")
    assert torch.equal(made(folder), made(tools_folder))
    torch.save({"state_dict": weights_of(wide), "run": print}, folder / "model.ckpt")
    with pytest.raises(ValueError, match="Refused to read"):
        lm_audio.load(folder)


def few_step_parts(make_parts: Make) -> dict[str, Any]:
    """As Stable Audio Open Small: norms in the attention, and no start."""
    shape = {**WIDE, "global_states_input_dim": 64, "num_key_value_attention_heads": 2}
    parts = make_parts(transformer=shape | {"cross_attention_dim": 128}, projection_model=PROJECTED)
    torch.manual_seed(4)
    for block in parts["transformer"].transformer_blocks:
        for attention in (block.attn1, block.attn2):
            for name in ("norm_q", "norm_k"):
                norm = nn.LayerNorm(HEAD, eps=1e-6)
                nn.init.normal_(norm.weight, 1.0, 0.3)
                nn.init.normal_(norm.bias, 0.0, 0.3)
                setattr(attention, name, norm)
    return parts


def few_step_folder(parts: dict[str, Any], folder: Path, objective: str) -> Path:
    settings = settings_of(
        parts,
        diffusion_objective=objective,
        cross_attention_cond_ids=["prompt", "seconds_total"],
        global_cond_ids=["seconds_total"],
        distribution_shift_options={"min_length": 256, "max_length": 4096},
    )
    settings["model"]["diffusion"]["config"]["attn_kwargs"] = {"qk_norm": "ln"}
    conditions = settings["model"]["conditioning"]["configs"]
    conditions[:] = [one for one in conditions if one["id"] != "seconds_start"]
    weights = {n: w for n, w in weights_of(parts).items() if "seconds_start" not in n}
    return write_tools(parts, folder, settings=settings, weights=weights)


@torch.no_grad()
def test_a_model_of_few_steps_is_a_loop_over_the_network_of_diffusers(
    make_parts: Make, tmp_path: Path
) -> None:
    parts = few_step_parts(make_parts)
    model = lm_audio.load(few_step_folder(parts, tmp_path, "rf_denoiser"))
    (stage,) = model.model.stages
    assert stage.sampling == Denoising(steps=8, solver="ping-pong", guidance_scale=1.0)
    T, projection = 12, parts["projection_model"]
    clip = model.generate(PROMPT, duration=T * HOP / RATE, seed=3, raw=True)

    encoded = parts["tokenizer"](PROMPT, padding="max_length", max_length=8, return_tensors="pt")
    encoded.pop("token_type_ids", None)  # of transformers 4.57
    words = parts["text_encoder"](**encoded).last_hidden_state
    words = projection(words).text_hidden_states * encoded.attention_mask[..., None]
    total = projection(end_seconds=torch.tensor([T * HOP / RATE])).seconds_end_hidden_states
    rotary = get_1d_rotary_pos_embed(HEAD // 2, T + 1, use_real=True, repeat_interleave_real=False)

    def noise(step: object) -> Tensor:
        return gaussians(3, f"diffusion/0/{step}", 0, T, WIDTH)[None]

    sigmas = torch.sigmoid(torch.linspace(6, -2, 9))
    sigmas[0], sigmas[-1] = 1.0, 0.0
    x = noise("start")
    for i in range(8):
        flow = parts["transformer"](
            x,
            sigmas[i : i + 1],
            encoder_hidden_states=torch.cat([words, total], dim=1),
            global_hidden_states=total,
            rotary_embedding=rotary,
        ).sample
        x0 = x - sigmas[i] * flow
        x = (1 - sigmas[i + 1]) * x0 + (sigmas[i + 1] * noise(i) if i < 7 else 0)
    expected = parts["vae"].decode(x).sample[0]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(clip.samples, expected, atol=1e-3, rtol=0)


def test_a_rectified_flow_starts_with_more_steps(make_parts: Make, tmp_path: Path) -> None:
    folder = few_step_folder(few_step_parts(make_parts), tmp_path, "rectified_flow")
    (stage,) = lm_audio.load(folder).model.stages
    assert stage.sampling == Denoising(steps=50, solver="euler", guidance_scale=7.0)


def wrong(settings: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(settings)
    place: Any = made
    *keys, last = path.split("/")
    for key in keys:
        place = place[int(key) if key.isdigit() else key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model/diffusion/type", "adp_cfg_1d", "type is 'adp_cfg_1d'; expected 'dit'"),
        ("model/diffusion/config/depth", None, "has no depth"),
        ("model/diffusion/config/depth", 5, "missing or unexpected weights: blocks.2"),
        ("model/diffusion/config/global_cond_type", "adaLN", "global_cond_type is 'adaLN'"),
        ("model/diffusion/config/causal", True, "settings that are not supported: causal"),
        ("model/diffusion/config/num_heads", 4, "Heads must be at least 64 wide, got 4 in 128"),
        ("model/diffusion/config/attn_kwargs", {"qk_norm": "l2"}, "qk_norm is 'l2'"),
        ("model/diffusion/config/io_channels", 5, "shapes that do not match"),
        ("model/diffusion/diffusion_objective", "eps", "diffusion_objective is 'eps'"),
        ("model/diffusion/global_cond_ids", ["tempo"], "numbers as the global_cond_ids, got"),
        ("model/conditioning/configs/0/type", "clap_text", "type is 'clap_text'; expected 't5'"),
        ("model/conditioning/configs/1/id", "tempo", "Unknown condition 'tempo'"),
        ("model/conditioning/cond_dim", 32, "shapes that do not match|missing or unexpected"),
        ("model/pretransform/type", "wavelet", "type is 'wavelet'; expected 'autoencoder'"),
        ("model/pretransform/scale", 2.0, "scale is 2.0; expected 1.0"),
        ("model/pretransform/config/encoder/config/use_snake", False, "use_snake is False"),
        ("model/pretransform/config/encoder/config/strides", [4, 2], "strides is .4, 2.; expected"),
        ("model/pretransform/config/latent_dim", 5, "the latents' width of 5 or twice that"),
        ("model_type", "diffusion_uncond", "Found no model in"),
        ("sample_size", None, "has no sample_size"),
        ("model/pretransform", True, "is not supported"),
        ("model/diffusion/config/depth", 10**9, "num_layers must be at most 1000"),
        ("model/diffusion/config/depth", {}, "is not supported"),
        ("model/conditioning/configs/1/config/max_val", [], "is not supported"),
        ("model/conditioning/cond_dim", 10**9, "shapes that do not match|missing or unexpected"),
    ],
)
def test_other_settings_are_refused(
    wide: dict[str, Any], tools_folder: Path, tmp_path: Path, path: str, value: Any, message: str
) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(tools_folder, folder)
    settings = wrong(settings_of(wide), path, value)
    (folder / "model_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        lm_audio.load(folder)


def test_damaged_files_are_refused(
    wide: dict[str, Any], tools_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(tools_folder, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        lm_audio.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match="No weights found in"):
        lm_audio.load(folder)
    weights = weights_of(wide) | {"ema.model.x": torch.zeros(1)}
    write_tools(wide, folder, weights=weights)
    with pytest.raises(ValueError, match=r"1 weights of unknown parts, such as ema\.model\.x"):
        lm_audio.load(folder)
    (folder / "model_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        lm_audio.load(folder)
