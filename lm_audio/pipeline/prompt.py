"""Audio prompts: the user's own samples, and the tokens that each stage continues.

Shapes: C channels, N samples, K codebooks, T frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from audio_tokenizers.protocol import SemanticTokenizer
from audio_tokenizers.resampling import resample
from lm_audio.renderers.protocol import Renderer
from lm_audio.stages.run import AnyStage


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Audio, tokenized.

    Args:
        samples: [C, N], at the renderer's rate.
        acoustic: [K, T] of the renderer, with a last frame that may be filled in part.
        semantic: [1, T'], for pipelines with a stage over semantic tokens.
    """

    samples: Tensor
    acoustic: Tensor
    semantic: Tensor | None

    def aligned(self, stage: AnyStage) -> Tensor:
        """The tokens [K, T] of a stage's own codebooks, each at its time."""
        if stage.prompt == "acoustic":
            first = stage.first_codebook
            return self.acoustic[first : first + stage.num_codebooks]
        assert self.semantic is not None
        return self.semantic


def read_prompt(
    samples: Tensor,
    *,
    stages: Sequence[AnyStage],
    renderer: Renderer,
    semantic_tokenizer: SemanticTokenizer | None,
    device: torch.device,
) -> Prompt:
    """Tokenizes samples [C, N] for all stages."""
    semantic = None
    if any(stage.prompt == "semantic" for stage in stages):
        if semantic_tokenizer is None:
            raise ValueError(
                "This model has no semantic tokenizer, so it takes no audio; "
                "choose a model that continues audio (lm-audio models)."
            )
        mono = samples.mean(dim=0, keepdim=True)
        mono = resample(mono, renderer.sample_rate, semantic_tokenizer.sample_rate)
        semantic = semantic_tokenizer.encode(mono[None].to(device))[0]
    return Prompt(samples=samples, acoustic=renderer.encode(samples.to(device)), semantic=semantic)


def tail_length(num_samples: int, *, stages: Sequence[AnyStage], renderer: Renderer) -> int:
    """How many samples at the end of a prompt the stages can see: whole frames, or all."""
    most = max(Fraction(stage.context) / stage.frame_rate for stage in stages)
    hop = renderer.hop_length
    return min(num_samples, math.floor(most * renderer.sample_rate) // hop * hop)


def merge_repeats(tokens: Tensor) -> Tensor:
    """Tokens [1, T] without those equal to the one before."""
    changes = torch.ones_like(tokens, dtype=torch.bool)
    changes[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    return tokens[:, changes[0]]
