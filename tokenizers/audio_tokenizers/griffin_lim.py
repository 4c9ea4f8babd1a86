"""Sound from magnitudes alone: fast Griffin-Lim (Perraudin, Balazs and Søndergaard, 2013).

Phases are found in blocks at fixed places. Each block keeps the samples of the one before and sees
the frames after it, so that a stream needs constant memory and gives the samples of a whole call.
The first phases are counted pseudo-random numbers: equal magnitudes give equal sound.

Frame i is centred at sample i * hop. Shapes: C channels, T frames, F bins, W window, N samples.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_tokenizers.noise import uniform_samples

# Of a block and of the frames that it sees before and after it, in lengths of the window.
_BLOCK, _BEFORE, _AFTER = 12, 2, 3
_LEAST_COVER = 1e-3  # of overlapping windows; less occurs at the outer ends of a block alone


@dataclass(frozen=True, kw_only=True)
class GriffinLim:
    """How phases are found.

    Args:
        window_length, hop_length: in samples; the transform has as many points as the window.
        momentum: of fast Griffin-Lim; 0 is the original algorithm.
    """

    window_length: int
    hop_length: int
    num_iterations: int = 32
    momentum: float = 0.99

    @property
    def num_bins(self) -> int:
        return self.window_length // 2 + 1

    def stream(self, num_channels: int) -> "GriffinLimStream":
        return GriffinLimStream(self, num_channels)

    def whole(self, magnitudes: Tensor) -> Tensor:
        """Samples [C, T * hop] of magnitudes [C, T, F]."""
        stream = self.stream(len(magnitudes))
        return torch.cat([stream.push(magnitudes), stream.finish()], dim=1)

    def circle(self, magnitudes: Tensor, num_samples: int) -> Tensor:
        """A loop [C, N] of magnitudes [C, T, F], whose end leads to its beginning.

        The last hop is shorter if N is not T hops.
        """
        T = magnitudes.shape[1]
        assert (T - 1) * self.hop_length < num_samples <= T * self.hop_length
        places = self._places(T, 0) % num_samples
        return self._solve(magnitudes, places, num_samples, first=0, known=None)

    def _places(self, num_frames: int, start: int) -> Tensor:
        """The samples [T, W] of each frame, the first of which is centred at `start`."""
        centres = start + self.hop_length * torch.arange(num_frames)
        return centres[:, None] + torch.arange(self.window_length) - self.window_length // 2

    def _solve(
        self,
        magnitudes: Tensor,
        places: Tensor,
        num_samples: int,
        *,
        first: int,
        known: Tensor | None,
    ) -> Tensor:
        """Samples [C, N] whose magnitudes [C, T, F] are near the given ones.

        Args:
            places: the samples [T, W] of each frame.
            first: the number of the first frame.
            known: the samples [C, n] at the start; the last hop of them is faded out.
        """
        places = places.to(magnitudes.device)
        window = torch.hann_window(self.window_length, device=magnitudes.device)
        flat = places.flatten()
        cover = torch.zeros(num_samples, device=magnitudes.device)
        cover.index_add_(0, flat, (window**2).repeat(len(places)))
        cover = cover.clamp(min=_LEAST_COVER * cover.max())

        def joined(spectra: Tensor) -> Tensor:
            frames = torch.fft.irfft(spectra, self.window_length) * window  # [C, T, W]
            added = torch.zeros(len(frames), num_samples, device=frames.device)
            return added.index_add_(1, flat, frames.flatten(1)) / cover

        turns = self._first_turns(magnitudes, first)
        before = torch.zeros_like(turns)
        for _ in range(self.num_iterations):
            samples = joined(magnitudes * turns)
            if known is not None:
                samples[:, : known.shape[1]] = known
            spectra = torch.fft.rfft(samples[:, places] * window)
            pushed = spectra + self.momentum * (spectra - before)
            turns = pushed / pushed.abs().clamp(min=1e-12)
            before = spectra
        samples = joined(magnitudes * turns)
        if known is not None:
            kept, end = known.shape[1] - self.hop_length, known.shape[1]
            share = (torch.arange(self.hop_length, device=samples.device) + 1) / self.hop_length
            samples[:, :kept] = known[:, :kept]
            samples[:, kept:end] = torch.lerp(known[:, kept:], samples[:, kept:end], share)
        return samples

    def _first_turns(self, magnitudes: Tensor, first: int) -> Tensor:
        """Complex numbers [C, T, F] of length 1 with counted random angles."""
        C, T, F = magnitudes.shape
        turns = uniform_samples(first=first * F, count=T * F, device=magnitudes.device)
        angles = (math.pi * turns).view(T, F)
        return torch.polar(torch.ones_like(angles), angles).expand(C, T, F)


class GriffinLimStream:
    """Magnitudes to samples; holds about 17 windows of them."""

    def __init__(self, settings: GriffinLim, num_channels: int) -> None:
        self._settings = settings
        frames = settings.window_length / settings.hop_length  # of a window
        self._block = math.ceil(_BLOCK * frames)
        self._before, self._after = math.ceil(_BEFORE * frames), math.ceil(_AFTER * frames)
        self._held = torch.zeros(num_channels, 0, settings.num_bins)
        self._first = 0  # the number of the first frame in `_held`
        self._next = 0  # the first frame of the next block
        self._known = torch.zeros(num_channels, 0)  # ends a hop after that block's start
        self._num_channels = num_channels

    def push(self, magnitudes: Tensor) -> Tensor:
        """Takes magnitudes [C, T >= 0, F], returns the samples [C, N >= 0] that are final."""
        self._held = torch.cat([self._held.to(magnitudes.device), magnitudes], dim=1)
        made = [self._empty()]
        while self._first + self._held.shape[1] >= self._next + self._block + self._after:
            made.append(self._make(last=False))
        return torch.cat(made, dim=1)

    def finish(self) -> Tensor:
        """The remaining samples: T hops in all."""
        made = [self._empty()]
        while self._next < self._first + self._held.shape[1]:
            made.append(self._make(last=True))
        return torch.cat(made, dim=1)

    def _empty(self) -> Tensor:
        return torch.zeros(self._num_channels, 0, device=self._held.device)

    def _make(self, *, last: bool) -> Tensor:
        """The samples of the next block."""
        settings, hop = self._settings, self._settings.hop_length
        end = self._first + self._held.shape[1]
        stop = min(self._next + self._block, end)
        seen = self._held[:, : min(stop + self._after, end) - self._first]
        # The buffer begins half a window before the first frame's centre.
        margin = settings.window_length // 2
        places = settings._places(seen.shape[1], margin)
        num_samples = margin + max(seen.shape[1] * hop + margin, (stop - self._first) * hop + hop)
        known = self._known.to(seen.device) if self._next else None
        samples = settings._solve(seen, places, num_samples, first=self._first, known=known)
        origin = margin - self._first * hop
        begin, over = origin + self._next * hop, origin + stop * hop
        made = samples[:, begin:over].clone()
        kept = max(0, stop - self._before)
        if not (last and stop == end):
            self._known = samples[:, origin + kept * hop - margin : over + hop].clone()
        self._held = self._held[:, kept - self._first :].clone()
        self._first, self._next = kept, stop
        return made
