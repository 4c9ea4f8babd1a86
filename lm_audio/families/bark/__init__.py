"""Bark: text to speech by three stages, as transformers and its authors publish it."""
