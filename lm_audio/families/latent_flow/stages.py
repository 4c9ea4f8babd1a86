"""Latent flow: one diffusion stage over a codec's latents, which its decoder renders.

Text conditions it by cross-attention. Labels are added to all frames, and so are the semantic
tokens of an earlier stage, at their time and with a short look-ahead. The network sees the known
frames of a track, so that it continues a prompt and fills a span as it was trained to.

Rectified flow (arXiv 2209.03003) is the default; networks that predict v, epsilon or x0 under
another noise schedule differ in `predicts` and `schedule` only.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from torch import nn

from lm_audio.conditioners.fuser import Conditioners, Fuse
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.generation.track import Source
from lm_audio.networks.dit import DiT, DiTConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Denoising
from lm_audio.signals import Signal

WINDOW_SECONDS = 30
KEPT_SHARE = 3  # a third of a window is the start of the next one
LOOK_AHEAD = 2  # semantic tokens
FLOW = NoiseSchedule(kind="flow")
FEW_STEPS = Denoising(steps=8, solver="euler", guidance_scale=3.0)


def latent_flow(
    transformer: TransformerConfig,
    *,
    makes: Signal,
    text: Callable[[int], nn.Module] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    num_semantic_tokens: int | None = None,
    semantic_rate: Fraction = Fraction(1),
    patch: int = 1,
    sees_known: bool = True,
    predicts: Predicts = "flow",
    schedule: NoiseSchedule = FLOW,
    window_seconds: float = WINDOW_SECONDS,
) -> DiffusionStage:
    """The stage, with new weights.

    Args:
        transformer: two-sided, with cross-attention if there is text.
        makes: the renderer's signal.
        text: builds the text conditioner for a given width.
        labels: the labels of each condition, by its name.
        num_semantic_tokens: follow a stage named "semantic" over this many tokens.
        semantic_rate: of those tokens, per second.
        patch, sees_known: as for `DiTConfig`.
    """
    dim = transformer.dim
    conditioners: dict[str, nn.Module] = {}
    fuse: dict[str, Fuse] = {}
    if text is not None:
        conditioners["text"], fuse["text"] = text(dim), "cross"
    for name, known in (labels or {}).items():
        conditioners[name], fuse[name] = LabelConditioner(list(known), dim), "sum"
    source = None
    if num_semantic_tokens is not None:
        source = Source(stage="semantic", condition="semantic")
        conditioners["semantic"] = AlignedTokens(
            num_semantic_tokens, dim, look_ahead=LOOK_AHEAD, ratio=semantic_rate / makes.rate
        )
        fuse["semantic"] = "sum"
    network = DiTConfig(
        width=makes.width,
        transformer=transformer,
        time_scale=1000.0 if schedule.starts_without_signal else 1.0,
        patch=patch,
        sees_known=sees_known,
    )
    window = max(1, int(window_seconds * makes.rate))
    return DiffusionStage(
        name=makes.content,
        network=DiT(network).eval(),
        predicts=predicts,
        schedule=schedule,
        conditioners=Conditioners(conditioners, fuse).eval(),
        makes=makes,
        window_frames=window,
        overlap_frames=window // KEPT_SHARE,
        sampling=FEW_STEPS,
        source=source,
        sees_known=sees_known,
    )
