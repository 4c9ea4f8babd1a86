"""Riffusion: text to sound by diffusion of spectrogram images with Stable Diffusion."""
