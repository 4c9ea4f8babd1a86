"""What a run takes before it is started."""

from lm_audio.stages.stage import Stage
from lm_audio.training.settings import LanguageModelSettings


def print_estimate(stage: Stage, config: LanguageModelSettings) -> None:
    raise NotImplementedError
