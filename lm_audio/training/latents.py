"""Latents of tokenised data or of sound, their scale, and samples of a diffusion stage in training.

Shapes: K codebooks of all channels, D latent width of all channels, T frames.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_tokenizers.protocol import LatentCodec
from lm_audio.data.batches import Crop
from lm_audio.data.corpus import FULL_SCALE
from lm_audio.data.shards import Shards
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.track import Track, unknown_values
from lm_audio.patterns import split_channels
from lm_audio.renderers.codec_latents import CodecLatentRenderer
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.protocol import Renderer
from lm_audio.signals import ACOUSTIC
from lm_audio.training.diffusion_batches import LatentBatches
from lm_audio.training.samples import NUM_SAMPLES, SAMPLE_SECONDS, first_conditions
from lm_audio.training.tracking import Tracker

_MOST_EXAMPLES = 2000  # to measure the scale
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, eq=False)
class TokenLatents:
    """Turns tokens [K, T] of a codec into its latents [D, T].

    Args:
        sets: the number of interleaved sets of codebooks: 2 for stereo with a mono codec.
    """

    codec: LatentCodec
    sets: int

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        rows = split_channels(tokens[None], self.sets)[0]  # [sets, K / sets, T]
        return self.codec.latents_of(rows).float().flatten(0, 1)


@dataclass(frozen=True, eq=False)
class StandardisedLatents:
    """Turns tokens [K, T] into the values [D, T] that a renderer takes."""

    renderer: CodecLatentRenderer

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        renderer = self.renderer
        rows = split_channels(tokens[None], renderer.sets)[0]
        return renderer.standardised(renderer.codec.latents_of(rows).float())


@dataclass(frozen=True, eq=False)
class SoundLatents:
    """Turns 16-bit samples [C, N] into the values [D, T] of a renderer, as it encodes prompts."""

    renderer: LatentRenderer

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        encoder = self.renderer.encoder
        assert encoder is not None
        device = next(self.renderer.autoencoder.parameters()).device
        mono = samples.to(device).float().mean(dim=0, keepdim=True) / FULL_SCALE
        return encoder.encode(mono).cpu()


def scale_of(shards: Shards, latents: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The mean and the deviation [D] of the latents of examples, evenly spaced in the data.

    Args:
        latents: turns acoustic tokens [K, T] into latents [D, T].
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for index in range(0, len(shards), -(-len(shards) // _MOST_EXAMPLES)):
        values = latents(shards.read(index, ACOUSTIC).long()).double()
        count += values.shape[1]
        total = total + values.sum(dim=1)
        squares = squares + values.square().sum(dim=1)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), deviation.clamp(min=_LEAST_DEVIATION).float()


@torch.inference_mode()
def log_latent_samples(
    stage: DiffusionStage,
    held_out: LatentBatches,
    tracker: Tracker,
    *,
    step: int,
    renderer: Renderer,
) -> None:
    """Logs clips with the conditions and source tokens of held-out examples.

    Args:
        stage: that of `held_out` with its current weights.
    """
    shards = held_out.shards
    for index in range(min(NUM_SAMPLES, len(shards))):
        frames = min(stage.window_frames, round(SAMPLE_SECONDS * stage.makes.rate))
        known = None
        if stage.source is not None:
            frames = min(frames, int(held_out.lengths[index]))
            known = held_out.source_tokens(Crop(index=index, start=0, stop=frames))
            if known is None:
                continue
        conditions = first_conditions(shards.conditions[index], stage.conditions)
        values = sample_latents(
            stage, num_frames=frames, seed=index, conditions=conditions, source=known
        )
        tracker.sound(
            f"sample {index}", renderer.render(values.cpu()), renderer.sample_rate, step=step
        )


@torch.inference_mode()
def sample_latents(
    stage: DiffusionStage,
    *,
    num_frames: int,
    seed: int,
    conditions: dict[str, object] | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """Latents [D, T] of one item.

    Args:
        conditions: by name.
        source: tokens [1, T] or latents [D, T] of the stage that conditions this one.
    """
    followed = None
    if source is not None:
        source = source if source.is_floating_point() else source.long()
        followed = Track(values=source, seed=seed, sampling=None)
    track = Track(
        values=unknown_values(stage.makes, num_frames, stage.device),
        seed=seed,
        sampling=stage.sampling,
        conditions=conditions or {},
        source=followed,
    )
    batch = stage.new_batch()
    batch.add(track)
    while batch.step():
        pass
    return track.values
