"""The stages with a token language model, which are trained, saved and packed alike."""

from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.masked_stage import MaskedStage

TokenStage = LMStage | MaskedStage
