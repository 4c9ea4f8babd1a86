"""The parts of an AudioLDM, from any layout."""

from dataclasses import dataclass
from typing import Any

import torch

from lm_audio.conditioners.text import T5Encoder
from lm_audio.families.audioldm.audio_encoder import AudioLanguageEncoder
from lm_audio.families.audioldm.audio_language import AudioLanguage
from lm_audio.families.audioldm.text import ClapScorer, ClapText, Speech
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.latent import LatentRenderer


@dataclass(frozen=True, kw_only=True, eq=False)
class AudioLdmParts:
    """The parts of an AudioLDM; without `language` and the second text encoder, of the first one.

    Args:
        t5, speech: AudioLDM 2 has one of them.
        encoder: makes the language of audio from sound; None if the folder has none.
        scorer: ranks candidates; None if CLAP lacks its audio encoder.
        window_frames: latent frames of the clips in training.
    """

    unet: UNet2d
    predicts: Predicts
    schedule: NoiseSchedule
    window_frames: int
    guidance_scale: float
    renderer: LatentRenderer
    clap: ClapText
    t5: T5Encoder | None = None
    speech: Speech | None = None
    language: AudioLanguage | None = None
    encoder: AudioLanguageEncoder | None = None
    scorer: ClapScorer | None = None
    licence: str | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "AudioLdmParts":
        """Moves all parts; the U-Net and GPT-2 change their precision.

        So do, for bfloat16, the autoencoder and the vocoder; text encoders stay in float32.
        """
        networks: list[Any] = [self.unet, self.language]
        sound: list[Any] = [self.renderer.autoencoder, self.renderer.vocoder]
        for network in networks:
            if network is not None:
                network.to(device, dtype)
        for network in sound:
            network.to(device, dtype if dtype == torch.bfloat16 else torch.float32)
        speech = None if self.speech is None else self.speech.model
        reader = None if self.encoder is None else self.encoder.patches
        for encoder in (self.clap.model, self.t5, speech, reader):
            if encoder is not None:
                encoder.to(device)
        if torch.device(device).type == "cpu":
            for network in (self.unet, self.renderer.autoencoder):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self
