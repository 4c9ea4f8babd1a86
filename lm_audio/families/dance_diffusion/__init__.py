"""Dance Diffusion: diffusion of waveforms, without a prompt."""
