"""Trains the language of audio: the squared error of each vector, given the text and those before.

Shapes: B batch, L vectors, S steps, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lm_audio.families.audioldm.audio_language import AudioLanguage, Projection, ProjectionConfig
from lm_audio.families.audioldm.gpt2 import Gpt2, Gpt2Config

_DEVIATION = 0.02  # of new weights


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageBatch:
    """Captions as embeddings, and the vectors that they translate to.

    Args:
        clap: B sequences [1, D].
        words: B sequences [L, D] of the second text encoder.
        targets: [B, L, D].
        own: [B], whether the network continues its own vectors instead of the targets.
    """

    clap: Sequence[Tensor]
    words: Sequence[Tensor]
    targets: Tensor
    own: Tensor


class LanguageObjective(nn.Module):
    """A translation of text to the language of audio as a module that returns its loss.

    Generation feeds each vector back in. Rows of a batch that continue their own vectors learn to
    correct their errors: a first pass over the targets makes these vectors, a second one is judged.

    Args:
        variance: of the targets; the loss is relative to it.
    """

    def __init__(self, language: AudioLanguage, *, variance: float) -> None:
        super().__init__()
        self.language = language
        self.variance = variance

    def forward(self, batch: LanguageBatch) -> Tensor:
        """The mean squared error as a share of the variance; 1 for the mean of the targets."""
        vectors = batch.targets
        if bool(batch.own.any()):
            with torch.no_grad():
                made = self.predicted(batch, vectors)
            vectors = torch.where(batch.own[:, None, None], made, vectors)
        return self.error(self.predicted(batch, vectors), batch.targets)

    def error(self, made: Tensor, targets: Tensor) -> Tensor:
        return (made.float() - targets).square().mean() / self.variance

    def predicted(self, batch: LanguageBatch, vectors: Tensor) -> Tensor:
        """The output [B, L, D] for each vector after those before it."""
        language = self.language
        prompts = [
            language.projection(clap, words)
            for clap, words in zip(batch.clap, batch.words, strict=True)
        ]
        rows = [torch.cat([x, y[:-1].to(x)]) for x, y in zip(prompts, vectors, strict=True)]
        # Padding stands at the end, where nothing before it attends to.
        outputs = language.gpt2(pad_sequence(rows, batch_first=True), [])  # [B, S, D]
        first = torch.tensor([len(x) - 1 for x in prompts], device=outputs.device)
        places = first[:, None] + torch.arange(vectors.shape[1], device=outputs.device)
        return outputs.gather(1, places[..., None].expand(-1, -1, outputs.shape[2]))


def new_language(
    projection: ProjectionConfig, gpt2: Gpt2Config, *, num_vectors: int
) -> AudioLanguage:
    """New weights as GPT-2's: those into the residual stream are smaller in deeper networks."""
    language = AudioLanguage(Projection(projection), Gpt2(gpt2), num_vectors=num_vectors)
    for name, weight in language.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif name.endswith("c_proj.weight"):
            nn.init.normal_(weight, std=_DEVIATION / math.sqrt(2 * gpt2.num_layers))
        elif ".ln_" not in name:
            nn.init.normal_(weight, std=_DEVIATION)
    return language
