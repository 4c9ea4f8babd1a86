"""The denoising network as the stage calls it: conditions by name become its inputs.

Shapes: B batch, L text tokens, C width of conditions, D latent width, T frames.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.audio_dit import AudioDiT
from lm_audio.networks.condition import Condition, Fused, Known

TEXT = "text"
"""The name of the condition; those of times are the checkpoint's."""


class AudioNetwork(nn.Module):
    """The transformer attends to the text, padded to a fixed length, and to numbers after it.

    Without a text it attends to zeros alone, as in training.

    Args:
        num_tokens: the length of all texts; the published networks attend to the padding, too.
        attended, shared: the names of the numbers that it attends to, and of those that all frames
            share.
        padding: [C], in place of the text's padding; zeros by default.
    """

    padding: Tensor

    def __init__(
        self,
        dit: AudioDiT,
        *,
        num_tokens: int,
        attended: Sequence[str],
        shared: Sequence[str],
        padding: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dit = dit
        self.num_tokens = num_tokens
        self.attended, self.shared = tuple(attended), tuple(shared)
        width = dit.config.condition_width
        self.register_buffer("padding", torch.zeros(width) if padding is None else padding)

    def forward(
        self, x: Tensor, times: Tensor, fused: Fused, *, known: Known | None = None
    ) -> Tensor:
        """Maps noisy latents [B, D, T], times [B] and conditions to an output [B, D, T]."""
        named = fused.named
        vector = torch.cat([named[name].embeddings[:, 0] for name in self.shared], dim=1)
        return self.dit(x, times, self._condition(named), vector, known=_inputs(known))

    def _condition(self, named: Mapping[str, Condition]) -> Tensor:
        """[B, L + numbers, C]."""
        text = named[TEXT]
        missing = self.num_tokens - text.mask.shape[1]
        words = F.pad(text.embeddings, (0, 0, 0, missing))
        is_word = F.pad(text.mask, (0, missing), value=False)[..., None]
        words = torch.where(is_word, words, self.padding.to(words))
        numbers = [named[name].embeddings.to(words) for name in self.attended]
        given = text.mask.any(dim=1)[:, None, None]
        return torch.cat([words, *numbers], dim=1) * given


def _inputs(known: Known | None) -> Tensor | None:
    """The mask and the values of known frames [B, 1 + D, T], zeros where nothing is known."""
    if known is None:
        return None
    mask = known.mask[:, None].to(known.values.dtype)
    return torch.cat([mask, known.values * mask], dim=1)
