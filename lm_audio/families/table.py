"""All families. To add one, create a folder beside this file and add it to `FAMILIES`."""

from lm_audio.families.audiocraft.family import FAMILY as AUDIOCRAFT
from lm_audio.families.audioldm.family import FAMILY as AUDIOLDM
from lm_audio.families.bark.family import FAMILY as BARK
from lm_audio.families.duet.family import FAMILY as DUET
from lm_audio.families.make_an_audio.family import FAMILY as MAKE_AN_AUDIO

FAMILIES = (DUET, AUDIOCRAFT, BARK, AUDIOLDM, MAKE_AN_AUDIO)
MODELS = tuple(model for family in FAMILIES for model in family.models)
FORMATS = {one.name: one for family in FAMILIES for one in family.formats}
