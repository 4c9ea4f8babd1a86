"""Dance Diffusion: one diffusion stage over samples.

It has no conditions: a model makes the kind of sound that it was trained on.
"""

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.model import Model, ModelCard
from lm_audio.networks.unet1d import UNet1d
from lm_audio.renderers.waveform import WaveformRenderer
from lm_audio.sampling import Denoising

DIFFUSION = "diffusion"
CRASH = NoiseSchedule(kind="crash")
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
PUBLISHED = Denoising(steps=100, solver="ipndm", guidance_scale=1.0)


def dance_diffusion(
    network: UNet1d, *, sample_rate: int, window: int, licence: str | None = None
) -> Model:
    """The model of a network.

    Args:
        window: samples per channel of the clips in training.
    """
    shape = network.config
    renderer = WaveformRenderer(sample_rate=sample_rate, num_channels=shape.in_channels)
    stage = DiffusionStage(
        name=DIFFUSION,
        network=network.eval().requires_grad_(False),
        predicts="v",
        schedule=CRASH,
        conditioners=Conditioners({}, {}),
        makes=renderer.signal,
        window_frames=window,
        overlap_frames=round(OVERLAP * window),
        multiple_of=shape.multiple,
        min_frames=shape.min_length,
        sampling=PUBLISHED,
    )
    return Model([stage], renderer, card=ModelCard(licence=licence))
