"""Language models over audio tokens, and the readers of checkpoints.

The public contract has a function of this package's name, so the package can be called.
"""

import sys
from types import ModuleType

from lm_audio import catalogue


class _Models(ModuleType):
    def __call__(self) -> list[catalogue.ModelInfo]:
        """The models that `lm_audio.load` knows by name."""
        return catalogue.models()


sys.modules[__name__].__class__ = _Models
