"""The networks of AudioLDM as the stages call them.

The denoising network is a U-Net over latents [D, T] as images of time and frequency.

Shapes: B batch, L vectors, D latent width, T frames, C channels, W columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lm_audio.families.audioldm.audio_language import AudioLanguage
from lm_audio.families.audioldm.text import Text
from lm_audio.networks.blocks2d import Context
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.unet2d import UNet2d

AUDIO_LANGUAGE, TEXT, TRANSCRIPTION = "audio_language", "text", "transcription"
"""The names of conditions."""


class LatentUNet(nn.Module):
    """AudioLDM 2's network reads the language of audio and a text, AudioLDM's a vector.

    Args:
        text: splits the embeddings of texts; None for models without T5.
    """

    def __init__(self, unet: UNet2d, *, num_columns: int, text: Text | None) -> None:
        super().__init__()
        self.unet = unet
        self.num_columns = num_columns
        self._text = (text,)  # a tuple, since its weights are not this network's

    def forward(self, x: Tensor, times: Tensor, fused: Fused) -> Tensor:
        """Maps noisy latents [B, D, T], times [B] and conditions to an output [B, D, T]."""
        weight = self.unet.conv_in.weight
        grid = x.to(weight).unflatten(1, (-1, self.num_columns)).transpose(2, 3)  # [B, C, T, W]
        contexts, vector = self._conditions(fused.named)
        made: Tensor = self.unet(grid, times, contexts, vector=vector)
        return made.transpose(2, 3).flatten(1, 2).float()

    def _conditions(self, named: Mapping[str, Condition]) -> tuple[list[Context], Tensor | None]:
        weight = self.unet.conv_in.weight
        if AUDIO_LANGUAGE not in named:
            return [], named[TEXT].embeddings[:, 0].to(weight)
        text = self._text[0]
        if text is not None:
            words = named[TEXT]
            cut = words.embeddings[:, 1:, : text.t5.dim], words.mask[:, 1:]
        else:
            spoken = named[TRANSCRIPTION]
            cut = spoken.embeddings, spoken.mask
            # Without words every entry is zero, and so is what attention finds in it.
            cut = cut[0], cut[1] | ~cut[1].any(dim=1, keepdim=True)
        language = named[AUDIO_LANGUAGE]
        pairs = [(language.embeddings, language.mask), cut]
        return [_context(tokens.to(weight), mask) for tokens, mask in pairs], None


class LanguageNetwork(nn.Module):
    """Makes the language of audio from a text, or from a description and a transcription.

    Args:
        text: splits the embeddings of texts; None for models without T5.
    """

    def __init__(self, language: AudioLanguage, *, text: Text | None) -> None:
        super().__init__()
        self.language = language
        self._text = (text,)

    def forward(self, fused: Fused) -> Tensor:
        """Maps conditions, B = 1, to vectors [D, L]."""
        words, text = fused.named[TEXT], self._text[0]
        if text is not None:
            return self.language(*text.split(words.embeddings[0, words.mask[0]]))
        spoken = fused.named[TRANSCRIPTION]
        return self.language(words.embeddings[0], spoken.embeddings[0], spoken.mask[0])


def _context(tokens: Tensor, mask: Tensor) -> Context:
    return Context(tokens=tokens, mask=None if bool(torch.all(mask)) else mask)
