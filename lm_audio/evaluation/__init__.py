"""Metrics of audio, tokens and models; each names the reference implementation that it matches."""
