"""Masked audio models with codebooks: waveform to one stream of tokens."""
