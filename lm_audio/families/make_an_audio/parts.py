"""The parts of a Make-An-Audio, from any layout."""

from dataclasses import dataclass
from typing import Any

import torch

from lm_audio.families.make_an_audio.text import TextTokens
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.log_mel import LogMel

LOG_MEL = LogMel(
    sample_rate=16_000, fft_length=1024, hop_length=256, num_mels=80, low=0, high=8000, base="10"
)
"""The spectrograms of the published model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MakeAnAudioParts:
    """The parts of a model of text, perhaps with other prompts.

    Args:
        unet: with 4 input channels, or 9 for inpainting.
    """

    unet: UNet2d
    predicts: Predicts
    schedule: NoiseSchedule
    renderer: LatentRenderer
    text: TextTokens
    licence: str | None = None

    def __post_init__(self) -> None:
        unet = self.unet.config
        shape: Any = self.renderer.autoencoder.config
        channels = shape.latent_channels
        expected = (channels, 2 * channels + 1)
        if unet.out_channels != channels or unet.in_channels not in expected:
            raise ValueError(
                f"The unet maps {unet.in_channels} channels to {unet.out_channels}; the vae makes "
                f"{channels}, so {expected[0]} or {expected[1]} to {channels} would fit."
            )
        for one in (*(x for level in unet.attends for x in level), *unet.middle):
            if one.width not in (None, self.text.dim):
                raise ValueError(
                    f"The unet attends to tokens of width {one.width}, and the text_encoder makes "
                    f"{self.text.dim}."
                )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "MakeAnAudioParts":
        """Moves all parts; the U-Net changes its precision.

        So do, for bfloat16, the autoencoder and the vocoder; text stays in float32.
        """
        self.unet.to(device, dtype)
        sound: list[Any] = [self.renderer.autoencoder, self.renderer.vocoder]
        for network in sound:
            network.to(device, dtype if dtype == torch.bfloat16 else torch.float32)
        self.text.to(device)
        self.text.encoder.to(device)
        if torch.device(device).type == "cpu":
            for image_network in (self.unet, sound[0]):
                image_network.to(memory_format=torch.channels_last)
        return self
