"""Tokenizers: waveform to tokens and back, independent of language models."""
