"""What a model cannot do, with the published models that can."""

from lm_audio.families.table import MODELS
from lm_audio.generation.request import Request
from lm_audio.model import Model


def check_abilities(model: Model, request: Request) -> None:
    """Raises ValueError, with models that can, for what only diffusion models can do."""
    for ability, wanted in (("vary", request.strength is not None), ("loop", request.loop)):
        if wanted and not model.denoises:
            names = ", ".join(one.name for one in MODELS if ability in one.abilities)
            verb = "vary audio" if ability == "vary" else "make loops"
            raise ValueError(f"This model cannot {verb}. Models that can: {names or 'none'}.")
