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
from lm_audio.generation.track import AnyStage, unknown_tokens
from lm_audio.renderers.protocol import Renderer


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Audio, tokenized.

    Args:
        samples: [C, N], at the renderer's rate.
        acoustic: [K, T] of the renderer, with a last frame that may be filled in part.
        semantic: [1, T'], for pipelines with a stage over semantic tokens.
        semantic_rate: how many of them there are in a second, before de-duplication.
    """

    samples: Tensor
    acoustic: Tensor
    semantic: Tensor | None
    semantic_rate: Fraction | None

    def around(
        self, stage: AnyStage, renderer: Renderer, *, first: int, last: int
    ) -> tuple[Tensor, list[float] | None]:
        """A stage's tokens [K, T], -1 for the samples from `first` to `last`, to be made anew.

        De-duplicated tokens have no fixed length: those that are known keep the times of the sound
        they were made from, the new ones are as many as the stage makes of so much time.

        Returns:
            The tokens, and for de-duplicated ones the second at which each of them begins.
        """
        if stage.token_kind == "acoustic":
            k = stage.first_codebook
            tokens = self.acoustic[k : k + stage.num_codebooks]
            start, stop = renderer.prompt_frames(first), renderer.num_frames(last)
        else:
            assert self.semantic is not None
            assert self.semantic_rate is not None
            tokens, frames_per_sample = self.semantic, self.semantic_rate / renderer.sample_rate
            start, stop = math.floor(first * frames_per_sample), math.ceil(last * frames_per_sample)
        tokens = tokens.to(stage.device)
        start = min(start, tokens.shape[1])  # a tokenizer may give no token for the very end
        before, after = tokens[:, :start], tokens[:, stop:]
        if not stage.repeats:
            return self._merged(stage, before, after, stop)
        span = unknown_tokens(stage.num_codebooks, stop - start, stage.device)
        return torch.cat([before, span, after], dim=1), None

    def _merged(
        self, stage: AnyStage, before: Tensor, after: Tensor, stop: int
    ) -> tuple[Tensor, list[float]]:
        """What comes before a span [1, T], the span unknown, what comes after, without repeats."""
        assert self.semantic_rate is not None
        left, right = changes(before), changes(after)
        begin, end = before.shape[1] / self.semantic_rate, stop / self.semantic_rate
        num_new = math.ceil((end - begin) * stage.frame_rate)
        starts = [i / self.semantic_rate for i in left]
        starts += [begin + i / stage.frame_rate for i in range(num_new)]
        starts += [end + i / self.semantic_rate for i in right]
        span = unknown_tokens(1, num_new, stage.device)
        tokens = torch.cat([before[:, left], span, after[:, right]], dim=1)
        return tokens, [float(start) for start in starts]


def read_prompt(
    samples: Tensor,
    *,
    stages: Sequence[AnyStage],
    renderer: Renderer,
    semantic_tokenizer: SemanticTokenizer | None,
    device: torch.device,
) -> Prompt:
    """Tokenizes samples [C, N] for all stages."""
    semantic, semantic_rate = None, None
    if any(stage.token_kind == "semantic" for stage in stages):
        if semantic_tokenizer is None:
            raise ValueError(
                "This model has no semantic tokenizer, so it takes no audio; "
                "choose a model that continues audio (lm-audio models)."
            )
        mono = samples.mean(dim=0, keepdim=True)
        mono = resample(mono, renderer.sample_rate, semantic_tokenizer.sample_rate)
        semantic = semantic_tokenizer.encode(mono[None].to(device))[0]
        # A float of samples per second over samples per frame: the exact ratio is found again.
        rate = Fraction(semantic_tokenizer.frame_rate)
        semantic_rate = rate.limit_denominator(semantic_tokenizer.sample_rate)
    return Prompt(
        samples=samples,
        acoustic=renderer.encode(samples.to(device)),
        semantic=semantic,
        semantic_rate=semantic_rate,
    )


def tail_length(num_samples: int, *, stages: Sequence[AnyStage], renderer: Renderer) -> int:
    """How many samples at the end of a prompt the stages can see: whole frames, or all."""
    most = max(Fraction(stage.context) / stage.frame_rate for stage in stages)
    hop = renderer.hop_length
    return min(num_samples, math.floor(most * renderer.sample_rate) // hop * hop)


def changes(tokens: Tensor) -> list[int]:
    """Where tokens [1, T] differ from the one before; the first one does."""
    changed = torch.ones_like(tokens[0], dtype=torch.bool)
    changed[1:] = tokens[0, 1:] != tokens[0, :-1]
    return changed.nonzero()[:, 0].tolist()
