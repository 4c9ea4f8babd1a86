"""Make-An-Audio: text, sounds and pictures to sound by diffusion of spectrogram latents."""
