"""Stable Audio Open: text to stereo sound by diffusion of waveform latents."""
