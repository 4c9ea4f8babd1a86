"""AudioLDM and AudioLDM 2: text to sound by diffusion of spectrogram latents."""
