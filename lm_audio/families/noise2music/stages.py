"""Noise2Music: a generator of low rate, and cascaders that raise it (arXiv 2302.03917).

Each is a diffusion stage with a U-Net over waveforms. The generator follows a text. A cascader sees
the sound before it, interpolated to its own rate, beside the noisy waveform, and may follow the
text, too. It also raises the rate of any other sound: see `generation/upsampling.py`.

In training, that sound has noise of a random level, which is a condition. No code or weights are
published: the shapes of the networks are ours, and so are the noise schedule and the solver.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from torch import nn

from lm_audio.conditioners.aligned_signal import AlignedSignal, LevelConditioner
from lm_audio.conditioners.fuser import Conditioners, Fuse
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.generation.sound_stage import SoundStage
from lm_audio.generation.track import Source, Stage
from lm_audio.model import Model, ModelCard
from lm_audio.networks.unet1d import LEVEL, UNet1d, UNet1dConfig
from lm_audio.renderers.waveform import WAVEFORM, WaveformRenderer
from lm_audio.sampling import Denoising
from lm_audio.signals import Signal

GENERATOR, SOUND = "generator", "sound"
"""The first stage of a model: one that generates, or the user's sound."""
STACKED = "stacked"
ANGLE = NoiseSchedule(kind="angle")
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
GENERATION = Denoising(steps=25, solver="dpm++2m", guidance_scale=5.0)
RAISING = Denoising(steps=20, solver="dpm++2m", guidance_scale=1.0)

Text = Callable[[int], nn.Module]
"""Builds the text conditioner for a given width."""


def waveform(rate: int, num_channels: int = 1) -> Signal:
    return Signal(
        kind="latents",
        content=f"{WAVEFORM}-{rate}",
        rate=Fraction(rate),
        width=num_channels,
    )


def generator(
    shape: UNet1dConfig, *, rate: int, window_seconds: float, text: Text | None
) -> DiffusionStage:
    """The generator with new weights.

    Args:
        shape: without conditions; those of this stage are added.
    """
    network = replace(shape, context_width=0 if text is None else _context_width(shape))
    conditioners, fuse = _text(network, text)
    return _stage(
        GENERATOR,
        network,
        makes=waveform(rate, shape.in_channels),
        conditioners=Conditioners(conditioners, fuse),
        window_seconds=window_seconds,
        sampling=GENERATION if text is not None else replace(GENERATION, guidance_scale=1.0),
    )


def cascader(
    shape: UNet1dConfig,
    *,
    follows: Signal,
    rate: int,
    most_noise: float,
    window_seconds: float,
    text: Text | None = None,
) -> DiffusionStage:
    """A cascader with new weights; `cascade` chains it to the stage before it.

    Args:
        shape: without conditions; those of this stage are added.
        follows: the signal that it sees.
        most_noise: the highest level of noise on that, in training.
    """
    if follows.rate >= rate:
        raise ValueError(
            f"A cascader raises the rate of a signal, got {float(follows.rate):g} Hz to {rate} Hz."
        )
    network = replace(
        shape,
        stacked_channels=follows.width,
        has_level=True,
        context_width=0 if text is None else _context_width(shape),
    )
    conditioners, fuse = _text(network, text)
    conditioners[STACKED] = AlignedSignal(follows.width, ratio=follows.rate / rate)
    conditioners[LEVEL] = LevelConditioner(most=most_noise)
    return _stage(
        f"cascader-{rate}",
        network,
        makes=waveform(rate, shape.in_channels),
        conditioners=Conditioners(conditioners, {**fuse, STACKED: "stack", LEVEL: "named"}),
        window_seconds=window_seconds,
        sampling=RAISING,
        source=Source(stage=SOUND, condition=STACKED),
    )


def cascade(stages: Sequence[DiffusionStage], *, card: ModelCard | None = None) -> Model:
    """The model of a generator, if any, and of cascaders, each of which follows the one before.

    Args:
        stages: in order; a first one that is a cascader follows a sound that the user gives.
    """
    chain: list[Stage] = []
    first = stages[0]
    if first.source is not None:
        chain.append(SoundStage(name=SOUND, makes=followed(first)))
    for stage in stages:
        if chain and stage.source is None:
            raise ValueError(f"The {stage.name} stage is no cascader, but follows another stage.")
        if chain:
            before = chain[-1]
            if not _fits(stage, before.makes):
                raise ValueError(
                    f"The {stage.name} stage follows {followed(stage)}, but the stage before it "
                    f"makes {before.makes}."
                )
            stage = replace(stage, source=Source(stage=before.name, condition=STACKED))
        chain.append(stage)
    makes = chain[-1].makes
    renderer = WaveformRenderer(sample_rate=int(makes.rate), num_channels=makes.width)
    return Model(chain, renderer, card=card or ModelCard())


def followed(stage: DiffusionStage) -> Signal:
    """The signal that a cascader sees."""
    assert stage.source is not None
    signal = stage.conditioners[stage.source.condition]
    assert isinstance(signal, AlignedSignal)
    return waveform(int(stage.makes.rate * signal.ratio), signal.dim)


def _fits(stage: DiffusionStage, before: Signal) -> bool:
    signal = followed(stage)
    return (signal.rate, signal.width) == (before.rate, before.width)


def _text(shape: UNet1dConfig, text: Text | None) -> tuple[dict[str, nn.Module], dict[str, Fuse]]:
    return ({}, {}) if text is None else ({"text": text(shape.context_width)}, {"text": "cross"})


def _context_width(shape: UNet1dConfig) -> int:
    return shape.widths[-1]


def _stage(
    name: str,
    shape: UNet1dConfig,
    *,
    makes: Signal,
    conditioners: Conditioners,
    window_seconds: float,
    sampling: Denoising,
    source: Source | None = None,
) -> DiffusionStage:
    least = max(round(window_seconds * makes.rate), shape.min_length)
    window = -(-least // shape.multiple) * shape.multiple
    return DiffusionStage(
        name=name,
        network=UNet1d(shape).eval(),
        predicts="v",
        schedule=ANGLE,
        conditioners=conditioners.eval(),
        makes=makes,
        window_frames=window,
        overlap_frames=round(OVERLAP * window),
        multiple_of=shape.multiple,
        min_frames=shape.min_length,
        sampling=sampling,
        source=source,
    )
