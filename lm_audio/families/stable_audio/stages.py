"""The parts of a Stable Audio from any layout, and the model that they make.

The text, where the window begins in the clip and how long the clip is lead the diffusion of
latents, which the autoencoder makes sound of. Latents are as long as the clip; a longer clip is
made in windows, as the networks were trained on crops of longer recordings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.text import T5Encoder, TextConditioner
from lm_audio.families.stable_audio.gemma import GemmaEncoder
from lm_audio.families.stable_audio.network import TEXT, AudioNetwork
from lm_audio.generation.diffusion_stage import DiffusionStage, Timing
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.model import Model, ModelCard
from lm_audio.networks.cpu.linear import product_dtype
from lm_audio.renderers.waveform_latents import WaveformLatentRenderer
from lm_audio.sampling import Denoising

DIFFUSION = "diffusion"
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
TIMINGS: Mapping[str, Timing] = {"seconds_start": "start", "seconds_total": "total"}


@dataclass(frozen=True, kw_only=True, eq=False)
class StableAudioParts:
    """The parts of a Stable Audio.

    Args:
        numbers: the conditioners of times, by names of `TIMINGS`.
        window_frames: latent frames of the clips in training.
    """

    network: AudioNetwork
    text: TextConditioner
    numbers: Mapping[str, nn.Module]
    predicts: Predicts
    schedule: NoiseSchedule
    sampling: Denoising
    window_frames: int
    renderer: WaveformLatentRenderer
    licence: str | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "StableAudioParts":
        """Moves all parts; the transformer changes its precision, and perhaps the autoencoder.

        The text encoder and the embeddings of times stay in float32.
        """
        self.network.to(device)
        self.network.dit.to(dtype)
        self.renderer.autoencoder.to(device, autoencoder_dtype(dtype, device))
        for conditioner in (self.text, *self.numbers.values()):
            conditioner.to(device)
        if isinstance(self.text.encoder, T5Encoder | GemmaEncoder):
            self.text.encoder.to(device)
        return self


def autoencoder_dtype(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """That of the autoencoder beside a transformer of this precision.

    bfloat16 has float32's range; CPUs without instructions for it take many times longer.
    """
    return product_dtype(dtype, torch.device(device)) if dtype == torch.bfloat16 else torch.float32


def stable_audio(parts: StableAudioParts) -> Model:
    """The model of these parts."""
    conditioners = {TEXT: parts.text, **parts.numbers}
    made = Conditioners(conditioners, dict.fromkeys(conditioners, "named"))
    stage = DiffusionStage(
        name=DIFFUSION,
        network=parts.network.eval().requires_grad_(False),
        predicts=parts.predicts,
        schedule=parts.schedule,
        conditioners=made.eval().requires_grad_(False),
        makes=parts.renderer.signal,
        window_frames=parts.window_frames,
        overlap_frames=round(OVERLAP * parts.window_frames),
        sampling=parts.sampling,
        sees_known=parts.network.dit.config.known_width > 0,
        timing={name: TIMINGS[name] for name in parts.numbers},
    )
    return Model([stage], parts.renderer, card=ModelCard(licence=parts.licence))
