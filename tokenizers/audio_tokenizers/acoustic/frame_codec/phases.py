"""Magnitudes to sound: phases by the fast Griffin-Lim algorithm, in blocks.

The algorithm is from Perraudin, Balazs and Sondergaard (WASPAA 2013). The phases of a block start
from those of noise and are optimised together with a few spectra ahead, against the sound before,
which is fixed. Blocks start at fixed positions, so the sound does not depend on how it is pushed.

Shapes: B batch, J spectra.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec.layers import OVERLAP, overlap_add
from audio_tokenizers.spectra import windows_of_hops

BLOCK = 4  # spectra; 16 with 8 ahead sound no better (docs/log.md) and add latency
AHEAD = 4
MOMENTUM = 0.99


class PhaseStream:
    """Converts magnitudes to sound, hop by hop.

    Args:
        window: analysis window [OVERLAP * hop] of unit energy.
    """

    def __init__(self, window: Tensor, *, iterations: int) -> None:
        self.window, self.iterations = window, iterations
        # Squared unit-energy windows, one per hop, sum to 1 / hop.
        self.hop = window.shape[0] // OVERLAP
        self.past: Tensor | None = None  # [B, OVERLAP - 1, window]
        self.magnitudes = window.new_zeros(0)  # [B, waiting, bins]
        self.phases = window.new_zeros(0)  # unit complex numbers, of the same shape

    def push(self, magnitudes: Tensor, noise: Tensor) -> Tensor:
        """Magnitudes [B, J, bins] and noise [J, bins] -> final hops [B, J', hop]."""
        B, _, num_bins = magnitudes.shape
        if self.past is None:
            self.past = magnitudes.new_zeros(B, OVERLAP - 1, len(self.window))
            self.magnitudes = magnitudes.new_zeros(B, 0, num_bins)
            self.phases = noise.new_zeros(B, 0, num_bins)
        start = (noise / noise.abs().clamp(min=1e-9)).expand(B, -1, -1)
        self.magnitudes = torch.cat([self.magnitudes, magnitudes], dim=1)
        self.phases = torch.cat([self.phases, start], dim=1)
        hops = [magnitudes.new_zeros(B, 0, self.hop)]
        while self.magnitudes.shape[1] >= BLOCK + AHEAD:
            hops.append(self._block(BLOCK + AHEAD))
        return torch.cat(hops, dim=1)

    def finish(self) -> Tensor:
        """The remaining hops [B, J', hop], including those of the last windows."""
        assert self.past is not None
        hops = []
        while (waiting := self.magnitudes.shape[1]) > 0:
            hops.append(self._block(min(waiting, BLOCK + AHEAD)))
        silence = torch.zeros_like(self.past)
        hops.append(overlap_add(torch.cat([self.past, silence], dim=1), overlap=OVERLAP))
        return torch.cat(hops, dim=1)

    def _block(self, seen: int) -> Tensor:
        """Finalises the first waiting block, using the first `seen` waiting spectra."""
        assert self.past is not None
        magnitudes, phases = self.magnitudes[:, :seen], self.phases[:, :seen]
        silence = torch.zeros_like(self.past)
        before = torch.zeros_like(phases)
        for _ in range(self.iterations):
            windows = torch.cat([self.past, self._windows(magnitudes * phases), silence], dim=1)
            hops = overlap_add(windows, overlap=OVERLAP)
            analysed = windows_of_hops(hops, overlap=OVERLAP) * self.window
            spectra = torch.fft.rfft(analysed)[..., :-1]
            moved = spectra - MOMENTUM / (1 + MOMENTUM) * before
            phases, before = moved / moved.abs().clamp(min=1e-9), spectra
        settled = min(seen, BLOCK)
        windows = self._windows(magnitudes[:, :settled] * phases[:, :settled])
        windows = torch.cat([self.past, windows], dim=1)
        self.past = windows[:, settled:].clone()
        self.magnitudes = self.magnitudes[:, settled:].clone()
        self.phases = torch.cat([phases[:, settled:], self.phases[:, seen:]], dim=1)
        return overlap_add(windows, overlap=OVERLAP)

    def _windows(self, spectra: Tensor) -> Tensor:
        """[B, J, bins] -> [B, J, window]; there is no Nyquist bin."""
        return torch.fft.irfft(F.pad(spectra, (0, 1))) * (self.window * self.hop)
