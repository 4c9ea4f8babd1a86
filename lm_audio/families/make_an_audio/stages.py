"""The stage of Make-An-Audio: the diffusion of latents, led by the tokens of its prompts."""

from torch import nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.make_an_audio.network import SpectrogramUNet
from lm_audio.families.make_an_audio.parts import MakeAnAudioParts
from lm_audio.families.make_an_audio.prompts import START, VIDEO, Film, Seconds
from lm_audio.families.make_an_audio.text import TEXT
from lm_audio.generation.diffusion_stage import DiffusionStage, Timing
from lm_audio.model import Model, ModelCard
from lm_audio.sampling import Denoising

DIFFUSION = "diffusion"
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
GUIDANCE = 3.0


def make_an_audio(parts: MakeAnAudioParts) -> Model:
    """The model of these parts."""
    renderer = parts.renderer
    conditioners: dict[str, nn.Module] = {TEXT: parts.text, **parts.prompts}
    film = parts.prompts.get(VIDEO)
    timing: dict[str, Timing] = {}
    if isinstance(film, Film):
        conditioners[START], timing[START] = Seconds(), "start"
    network = SpectrogramUNet(
        parts.unet,
        renderer=renderer,
        text=parts.text,
        film=film if isinstance(film, Film) else None,
    )
    stage = DiffusionStage(
        name=DIFFUSION,
        network=network.eval().requires_grad_(False),
        predicts=parts.predicts,
        schedule=parts.schedule,
        conditioners=Conditioners(conditioners, dict.fromkeys(conditioners, "named")),
        makes=renderer.signal,
        window_frames=renderer.window_frames,
        overlap_frames=round(OVERLAP * renderer.window_frames),
        sampling=Denoising(guidance_scale=GUIDANCE),
        sees_known=network.sees_known,
        timing=timing,
    )
    return Model([stage], renderer, card=ModelCard(licence=parts.licence))
