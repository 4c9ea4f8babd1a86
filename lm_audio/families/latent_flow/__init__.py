"""Latent flow: a diffusion transformer makes a codec's latents from text, labels and tokens."""
