"""Audio prompts: the user's samples, and the tokens that each stage continues.

Shapes: C channels, N samples, K codebooks, T frames.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from audio_tokenizers.protocol import SemanticTokenizer
from audio_tokenizers.resampling import resample
from lm_audio.generation.track import Stage, unknown_values
from lm_audio.renderers.protocol import Renderer
from lm_audio.renderers.waveform import WAVEFORM
from lm_audio.signals import SEMANTIC, Signal


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Audio encoded as the stages' signals.

    Args:
        samples: [C, N], at the renderer's rate.
        values: [K, T] by content; the last frame of the renderer's may be partly filled.
        rates: frames per second of each content, before deduplication.
    """

    samples: Tensor
    values: Mapping[str, Tensor]
    rates: Mapping[str, Fraction]

    def around(
        self, stage: Stage, renderer: Renderer, *, first: int, last: int
    ) -> tuple[Tensor, list[float] | None]:
        """A stage's values [K, T], unknown for the samples from `first` to `last`.

        Deduplicated tokens have no fixed duration: known ones keep the start times of their audio,
        and new ones fill the span at the average rate of the stage.

        Returns:
            The values, and for deduplicated tokens the start time of each in seconds.
        """
        signal = stage.makes
        if signal.kind == "vector":  # describes the whole item, not its parts
            return unknown_values(signal, signal.num_vectors, stage.device), None
        values, rate = self.values[signal.content], self.rates[signal.content]
        if signal.content == renderer.signal.content:
            k = stage.first_codebook
            values = values[k : k + signal.width]
            assert renderer.encoder is not None
            start, stop = renderer.encoder.prompt_frames(first), renderer.num_frames(last)
        else:
            frames_per_sample = rate / renderer.sample_rate
            start, stop = math.floor(first * frames_per_sample), math.ceil(last * frames_per_sample)
        values = values.to(stage.device)
        start = min(start, values.shape[1])  # a tokenizer may give no token for the very end
        before, after = values[:, :start], values[:, stop:]
        if stage.deduplicated:
            return _merged(stage, before, after, stop, rate)
        span = unknown_values(signal, stop - start, stage.device)
        return torch.cat([before, span, after], dim=1), None


def _merged(
    stage: Stage, before: Tensor, after: Tensor, stop: int, rate: Fraction
) -> tuple[Tensor, list[float]]:
    """Deduplicated tokens before a span [1, T], the span as unknown, and those after it."""
    left, right = changes(before), changes(after)
    begin, end = before.shape[1] / rate, stop / rate
    num_new = math.ceil((end - begin) * stage.makes.rate)
    starts = [i / rate for i in left]
    starts += [begin + i / stage.makes.rate for i in range(num_new)]
    starts += [end + i / rate for i in right]
    span = unknown_values(stage.makes, num_new, stage.device)
    tokens = torch.cat([before[:, left], span, after[:, right]], dim=1)
    return tokens, [float(start) for start in starts]


def read_prompt(
    samples: Tensor,
    *,
    stages: Sequence[Stage],
    renderer: Renderer,
    semantic_tokenizer: SemanticTokenizer | None,
    device: torch.device,
) -> Prompt:
    """Encodes samples [C, N] as the signals of all stages."""
    values: dict[str, Tensor] = {}
    rates: dict[str, Fraction] = {}
    made = [stage.makes for stage in stages if stage.makes.kind != "vector"]
    contents = dict.fromkeys([*(signal.content for signal in made), renderer.signal.content])
    for content in contents:
        if content == renderer.signal.content and renderer.encoder is not None:
            values[content] = renderer.encoder.encode(samples.to(device))
            rates[content] = renderer.signal.rate
        elif content == SEMANTIC and semantic_tokenizer is not None:
            mono = samples.mean(dim=0, keepdim=True)
            mono = resample(mono, renderer.sample_rate, semantic_tokenizer.sample_rate)
            values[content] = semantic_tokenizer.encode(mono[None].to(device))[0]
            # A float ratio of samples per second to samples per frame: recover the exact fraction.
            rate = Fraction(semantic_tokenizer.frame_rate)
            rates[content] = rate.limit_denominator(semantic_tokenizer.sample_rate)
        elif content.startswith(f"{WAVEFORM}-"):
            signal = next(signal for signal in made if signal.content == content)
            values[content] = _at_rate(samples.to(device), renderer.sample_rate, signal)
            rates[content] = signal.rate
        else:
            lacks = "semantic tokenizer" if content == SEMANTIC else f"encoder for {content}"
            raise ValueError(
                f"This model has no {lacks}, so it does not accept audio prompts. "
                "Choose a model that continues audio (lm-audio models)."
            )
    return Prompt(samples=samples, values=values, rates=rates)


def _at_rate(samples: Tensor, sample_rate: int, signal: Signal) -> Tensor:
    """Samples [C, N] at the rate of a stage of waveforms, as many as cover the same time."""
    made = resample(samples, sample_rate, int(signal.rate))
    missing = math.ceil(samples.shape[1] * signal.rate / sample_rate) - made.shape[1]
    return torch.nn.functional.pad(made, (0, missing))


def tail_length(num_samples: int, *, stages: Sequence[Stage], renderer: Renderer) -> int:
    """The number of samples at the end of a prompt that fit the stages' windows."""
    rates = [(stage.window_frames, stage.makes.rate) for stage in stages if stage.makes.rate]
    most = max(Fraction(context) / rate for context, rate in rates)
    hop = renderer.hop_length
    return min(num_samples, math.floor(most * renderer.sample_rate) // hop * hop)


def changes(tokens: Tensor) -> list[int]:
    """The indices at which tokens [1, T] differ from the one before, including the first."""
    changed = torch.ones_like(tokens[0], dtype=torch.bool)
    changed[1:] = tokens[0, 1:] != tokens[0, :-1]
    return changed.nonzero()[:, 0].tolist()
