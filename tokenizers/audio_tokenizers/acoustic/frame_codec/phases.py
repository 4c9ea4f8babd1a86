"""Magnitudes to sound: phases by the fast Griffin-Lim algorithm, in blocks.

The algorithm is from Perraudin, Balazs and Sondergaard (WASPAA 2013). The phases of a block start
from those of noise and are optimised together with a few spectra ahead, against the sound before,
which is fixed. Blocks start at fixed positions, so the sound does not depend on how it is pushed.

Shapes: B batch, J spectra.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec.layers import OVERLAP, overlap_add
from audio_tokenizers.compiled import Operators
from audio_tokenizers.spectra import windows_of_hops

BLOCK = 4  # spectra; 16 with 8 ahead sound no better (docs/log.md) and add latency
AHEAD = 4
MOMENTUM = 0.99

ROUNDS = Operators(
    name="lm_audio_phases",
    sources=(Path(__file__).with_name("phases.cpp"),),
    purpose="the frame codec",
    seconds=15,
)


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
        magnitudes = self.magnitudes[:, :seen]
        phases = self._settled(magnitudes, self.phases[:, :seen])
        settled = min(seen, BLOCK)
        windows = self._windows(magnitudes[:, :settled] * phases[:, :settled])
        windows = torch.cat([self.past, windows], dim=1)
        self.past = windows[:, settled:].clone()
        self.magnitudes = self.magnitudes[:, settled:].clone()
        self.phases = torch.cat([phases[:, settled:], self.phases[:, seen:]], dim=1)
        return overlap_add(windows, overlap=OVERLAP)

    def _settled(self, magnitudes: Tensor, phases: Tensor) -> Tensor:
        """The phases [B, J, bins] after all rounds, from those given."""
        assert self.past is not None
        slowing = MOMENTUM / (1 + MOMENTUM)
        if self._suits_kernel(magnitudes):
            given = (x.contiguous() for x in (self.past, magnitudes, phases, self.window))
            return torch.ops.lm_audio_phases.settle(*given, self.iterations, slowing)
        silence = torch.zeros_like(self.past)
        before = torch.zeros_like(phases)
        for _ in range(self.iterations):
            windows = torch.cat([self.past, self._windows(magnitudes * phases), silence], dim=1)
            hops = overlap_add(windows, overlap=OVERLAP)
            analysed = windows_of_hops(hops, overlap=OVERLAP) * self.window
            spectra = torch.fft.rfft(analysed)[..., :-1]
            moved = spectra - slowing * before
            phases, before = moved / moved.abs().clamp(min=1e-9), spectra
        return phases

    def _suits_kernel(self, magnitudes: Tensor) -> bool:
        if magnitudes.device.type != "cpu" or magnitudes.dtype != torch.float32:
            return False
        return _has_small_factors(magnitudes.shape[2]) and ROUNDS.load()

    def _windows(self, spectra: Tensor) -> Tensor:
        """[B, J, bins] -> [B, J, window]; there is no Nyquist bin."""
        return torch.fft.irfft(F.pad(spectra, (0, 1))) * (self.window * self.hop)


def _has_small_factors(n: int) -> bool:
    """Whether n has no other prime factors than 2, 3 and 5."""
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n == 1
