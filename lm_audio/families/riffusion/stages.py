"""The stage of Riffusion: a U-Net over the latents of spectrogram images, led by a text."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.riffusion.text import ClipText
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.model import Model, ModelCard
from lm_audio.networks.blocks2d import Context
from lm_audio.networks.condition import Fused
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.image_latents import ImageRenderer
from lm_audio.sampling import Denoising

DIFFUSION, TEXT = "diffusion", "text"
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
GUIDANCE = 7.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RiffusionParts:
    """The parts of a Riffusion.

    Args:
        window_frames: latent frames of the images in training.
    """

    unet: UNet2d
    predicts: Predicts
    schedule: NoiseSchedule
    window_frames: int
    renderer: ImageRenderer
    text: ClipText
    licence: str | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "RiffusionParts":
        """Moves all parts; the U-Net changes its precision, and so does, for bfloat16, the VAE."""
        self.unet.to(device, dtype)
        self.renderer.autoencoder.to(device, dtype if dtype == torch.bfloat16 else torch.float32)
        self.text.to(device)
        if torch.device(device).type == "cpu":
            for network in (self.unet, self.renderer.autoencoder):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


class ImageUNet(nn.Module):
    """A U-Net over latents [D, T] as images of frequency and time.

    Shapes: B batch, D latent width, T frames, C channels, H rows.
    """

    def __init__(self, unet: UNet2d, *, num_rows: int) -> None:
        super().__init__()
        self.unet = unet
        self.num_rows = num_rows

    def forward(self, x: Tensor, times: Tensor, fused: Fused) -> Tensor:
        """Maps noisy latents [B, D, T], times [B] and conditions to an output [B, D, T]."""
        weight = self.unet.conv_in.weight
        grid = x.to(weight).unflatten(1, (-1, self.num_rows))  # [B, C, H, T]
        words = Context(tokens=fused.named[TEXT].embeddings.to(weight))
        made: Tensor = self.unet(grid, times, [words])
        return made.flatten(1, 2).float()


def riffusion(parts: RiffusionParts) -> Model:
    """The model of these parts."""
    renderer = parts.renderer
    conditioners = Conditioners({TEXT: parts.text}, {TEXT: "named"})
    stage = DiffusionStage(
        name=DIFFUSION,
        network=ImageUNet(parts.unet, num_rows=renderer.num_rows).eval().requires_grad_(False),
        predicts=parts.predicts,
        schedule=parts.schedule,
        conditioners=conditioners.eval().requires_grad_(False),
        makes=renderer.signal,
        window_frames=parts.window_frames,
        overlap_frames=round(OVERLAP * parts.window_frames),
        sampling=Denoising(guidance_scale=GUIDANCE),
    )
    return Model([stage], renderer, card=ModelCard(licence=parts.licence))
