"""The stage of Make-An-Audio: the diffusion of latents, led by the tokens of its prompts."""

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.make_an_audio.network import SpectrogramUNet
from lm_audio.families.make_an_audio.parts import MakeAnAudioParts
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.model import Model, ModelCard
from lm_audio.sampling import Denoising

DIFFUSION, TEXT = "diffusion", "text"
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
GUIDANCE = 3.0


def make_an_audio(parts: MakeAnAudioParts) -> Model:
    """The model of these parts."""
    renderer = parts.renderer
    conditioners = {TEXT: parts.text}
    network = SpectrogramUNet(parts.unet, renderer=renderer, text=parts.text)
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
    )
    return Model([stage], renderer, card=ModelCard(licence=parts.licence))
