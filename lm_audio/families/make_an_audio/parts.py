"""The parts of a Make-An-Audio, from any layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lm_audio.families.make_an_audio.prompts import Prompt
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
        prompts: those other than text, by name.
    """

    unet: UNet2d
    predicts: Predicts
    schedule: NoiseSchedule
    renderer: LatentRenderer
    text: TextTokens
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
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
        for name, prompt in self.prompts.items():
            if prompt.map.config.width != self.text.dim:
                raise ValueError(
                    f"The map of the {name} makes tokens of width {prompt.map.config.width}, and "
                    f"the text_encoder {self.text.dim}."
                )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "MakeAnAudioParts":
        """Moves all parts; the U-Net changes its precision.

        So do, for bfloat16, the autoencoder and the vocoder; text stays in float32.
        """
        images: list[Any] = [self.unet, self.renderer.autoencoder]
        sound: list[Any] = [self.renderer.autoencoder, self.renderer.vocoder]
        self.unet.to(device, dtype)
        for network in sound:
            network.to(device, dtype if dtype == torch.bfloat16 else torch.float32)
        self.text.to(device)
        self.text.encoder.to(device)
        for prompt in self.prompts.values():
            prompt.to(device)
        if torch.device(device).type == "cpu":
            for network in images:
                network.to(memory_format=torch.channels_last)
        return self
