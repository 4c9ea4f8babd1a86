"""The U-Net of Make-An-Audio as its stage calls it, over latents [D, T] as images, mel axis first.

One for inpainting has 9 input channels instead of 4: noisy latents, the latents of the spectrogram
whose unknown part is silent, and the mask: 1 where it is unknown, else -1.

Shapes: B batch, L tokens, D latent width, T frames, C channels, M mel bands.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lm_audio.families.make_an_audio.prompts import START, VIDEO, Film
from lm_audio.families.make_an_audio.text import TEXT, TextTokens
from lm_audio.networks.blocks2d import Context
from lm_audio.networks.condition import Condition, Fused, Known, stack
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.latent import LatentRenderer

MOST_KEPT = 32
"""Encoded surroundings, one per window that is being denoised."""


class SpectrogramUNet(nn.Module):
    """Attends to the tokens of all prompts, or to those of the empty text.

    Args:
        text: encodes the empty text.
        film: gives the tokens of a film at a time; None for a model that takes none.
    """

    def __init__(
        self,
        unet: UNet2d,
        *,
        renderer: LatentRenderer,
        text: TextTokens,
        film: Film | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self._renderer = renderer
        self._text, self._film = (text,), (film,)  # tuples, since their weights are not its own
        self._surroundings = Surroundings(renderer)

    @property
    def sees_known(self) -> bool:
        """Whether it is one for inpainting."""
        return self.unet.config.in_channels == 2 * self.unet.config.out_channels + 1

    def forward(self, x: Tensor, times: Tensor, fused: Fused, known: Known | None = None) -> Tensor:
        """Maps noisy latents [B, D, T], times [B] and conditions to an output [B, D, T]."""
        weight = self.unet.conv_in.weight
        grid = self._renderer.to_grid(x.to(weight))  # [B, C, columns, T]
        if known is not None:
            around = self._renderer.to_grid(self._surroundings.encode(known).to(weight))
            mask = torch.where(known.mask, -1.0, 1.0).to(weight)[:, None, None]
            mask = mask.expand(-1, 1, *grid.shape[2:])
            grid = torch.cat([grid, around, mask], dim=1)
        seconds = float(x.shape[2] / self._renderer.signal.rate)
        context = self._context(fused.named, seconds=seconds)
        made: Tensor = self.unet(grid, times, (context,))
        return self._renderer.from_grid(made).float()

    def _context(self, named: Mapping[str, Condition], *, seconds: float) -> Context:
        """The tokens of all prompts of windows of this length, or of the empty text."""
        rows = []
        for b in range(len(named[TEXT].mask)):
            given = {name: one.embeddings[b, one.mask[b]] for name, one in named.items()}
            start = given.pop(START, None)
            if len(given.get(VIDEO, ())):
                film = self._film[0]
                assert film is not None
                assert start is not None
                given[VIDEO] = film.tokens_at(given[VIDEO], float(start) + seconds / 2)
            found = [part for part in given.values() if len(part)] or [self._text[0].empty]
            rows.append(torch.cat(found).to(self.unet.conv_in.weight))
        made = stack(rows)
        return Context(tokens=made.embeddings, mask=None if bool(made.mask.all()) else made.mask)


class Surroundings:
    """The latents of known frames in silence; those of a window are the same at each of its levels.

    Known frames are latents, of a recording or of the window before. Their spectrogram is made,
    silenced where it is unknown, and encoded.
    """

    def __init__(self, renderer: LatentRenderer) -> None:
        self._renderer = renderer
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def encode(self, known: Known) -> Tensor:
        """Latents [B, D, T]."""
        return torch.stack([self._one(*row) for row in zip(known.values, known.mask, strict=True)])

    def _one(self, values: Tensor, mask: Tensor) -> Tensor:
        for old_values, old_mask, made in self._kept:
            if torch.equal(old_mask, mask) and torch.equal(old_values, values):
                return made
        made = self._encoded(values, mask).to(values)
        self._kept = [*self._kept[1 - MOST_KEPT :], (values.clone(), mask.clone(), made)]
        return made

    def _encoded(self, values: Tensor, mask: Tensor) -> Tensor:
        renderer, log_mel = self._renderer, self._renderer.log_mel
        assert log_mel is not None
        config: Any = renderer.autoencoder.config
        silence = math.log10(log_mel.floor) if log_mel.base == "10" else math.log(log_mel.floor)
        hidden = ~mask.repeat_interleave(config.factor)
        mel = renderer.to_mel(values)
        return renderer.from_mel(mel.masked_fill(hidden, silence))
