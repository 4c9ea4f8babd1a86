"""Noise2Music: a cascade of diffusion models over waveforms of growing rates."""
