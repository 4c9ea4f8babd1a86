"""All families. To add one, create a folder beside this file and add it to `FAMILIES`."""

from lm_audio.families.audiocraft.family import FAMILY as AUDIOCRAFT
from lm_audio.families.audioldm.family import FAMILY as AUDIOLDM
from lm_audio.families.bark.family import FAMILY as BARK
from lm_audio.families.dance_diffusion.family import FAMILY as DANCE_DIFFUSION
from lm_audio.families.duet.family import FAMILY as DUET
from lm_audio.families.make_an_audio.family import FAMILY as MAKE_AN_AUDIO
from lm_audio.families.riffusion.family import FAMILY as RIFFUSION
from lm_audio.families.stable_audio.family import FAMILY as STABLE_AUDIO

FAMILIES = (
    DUET,
    AUDIOCRAFT,
    BARK,
    AUDIOLDM,
    DANCE_DIFFUSION,
    MAKE_AN_AUDIO,
    RIFFUSION,
    STABLE_AUDIO,
)
MODELS = tuple(model for family in FAMILIES for model in family.models)
FORMATS = {one.name: one for family in FAMILIES for one in family.formats}
