"""A small random checkpoint of Dance Diffusion in diffusers' layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DanceDiffusionPipeline, IPNDMScheduler, UNet1DModel
from torch import nn

Make = Callable[..., Any]


def small_pipeline(**overrides: Any) -> DanceDiffusionPipeline:
    """A pipeline of diffusers at 1600 Hz with windows of 96 samples; overrides are the U-Net's."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 96, "sample_rate": 1600, "extra_in_channels": 16, "time_embedding_dim": 16,
        "block_out_channels": (32, 32, 64),
    } | overrides  # fmt: skip
    unet = UNet1DModel(**settings)
    for name, weight in unet.named_parameters():
        if name == "time_proj.weight":
            continue
        is_scale = "norm" in name and name.endswith("weight")
        width = weight[0].numel() if weight.dim() > 1 else 4
        nn.init.normal_(weight, float(is_scale), 0.3 if is_scale else 0.6 * width**-0.5)
    pipeline = DanceDiffusionPipeline(unet=unet.eval(), scheduler=IPNDMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def make_pipeline() -> Make:
    """Random pipelines, as `small_pipeline`."""
    return small_pipeline


@pytest.fixture(scope="session")
def published() -> DanceDiffusionPipeline:
    return small_pipeline()


@pytest.fixture(scope="session")
def folder(published: DanceDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dance_diffusion")
    published.save_pretrained(made)
    (made / "README.md").write_text("---\nlicense: mit\n---\n")
    return made
