"""The settings that the methods of `AudioPipeline` take as keyword arguments.

Shapes: K codebooks or latent width, T frames.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from torch import Tensor

from lm_audio.generation.request import AudioLike
from lm_audio.sampling import AnySampling


class Settings(TypedDict, total=False):
    """Settings of every method that makes audio.

    sampling: one for all stages that take its kind, or a dict by stage name; the stages' own by
        default.
    negative: a negative prompt, for models with guidance.
    conditions: prompts other than text, by name, such as a label or a voice.
    raw: keep the model's output level. By default new audio is normalised to -16 LUFS, or to the
        loudness of the audio that it joins, with true peaks of at most -1 dB.
    """

    sampling: AnySampling | Mapping[str, AnySampling] | None
    negative: str | None
    conditions: Mapping[str, Any] | None
    raw: bool


class LongSettings(Settings, total=False):
    """Further settings for clips that may exceed a model's context.

    overlap: seconds of each window that the next window begins with; the model's own by default.
        Larger overlaps take longer. No effect on clips of one window.
    """

    overlap: float | None


class StreamSettings(LongSettings, total=False):
    """Further settings of `generate` and `stream`.

    loop: let the end of the clip lead to its beginning without a seam; for diffusion models.
    tokens: values [K, T] by stage name; these stages are not run. For the language of audio of an
        AudioLDM 2 with an encoder, also audio.
    """

    loop: bool
    tokens: Mapping[str, Tensor | AudioLike] | None


class VarySettings(LongSettings, total=False):
    """Further settings of `vary`.

    progress: called with the completed fraction, from 0 to 1.
    """

    progress: Callable[[float], None] | None


class UpsampleSettings(TypedDict, total=False):
    """Settings of `upsample`.

    from_rate: follow the sound at this rate, one that a stage of the model raises; by default the
        highest that keeps all of it.
    text: a prompt, for models whose cascaders follow one.
    noise_level: noise on the sound, from 0 to the highest of the model's training; more of it
        changes damaged sound more. The model's default if None.
    sampling: as for `Settings`.
    progress: called with the completed fraction, from 0 to 1.
    """

    from_rate: int | None
    text: str | None
    noise_level: float | None
    sampling: AnySampling | Mapping[str, AnySampling] | None
    progress: Callable[[float], None] | None


class BatchSettings(LongSettings, total=False):
    """Further settings of methods that make clips in batches.

    rows_per_pass: batch rows per forward pass; fewer need less memory and give the same tokens.
    progress: called with the completed fraction, from 0 to 1.
    """

    rows_per_pass: int | None
    progress: Callable[[float], None] | None


class GenerateSettings(StreamSettings, BatchSettings, total=False):
    """All settings of `generate`.

    best_of: make this many clips of each prompt and return the one that fits it best, with all of
        them as its `takes`; for models with a judge, which `load` can add.
    """

    best_of: int


def check_settings(verb: str, given: Mapping[str, Any], known: type) -> None:
    """Raises TypeError for a keyword that a method does not take."""
    names = known.__annotations__
    for name in given:
        if name not in names:
            raise TypeError(
                f"{verb}() got an unexpected keyword argument {name!r}. It also accepts: "
                f"{', '.join(names)}."
            )
