"""Waveform to tokens and back; knows nothing of language models."""
