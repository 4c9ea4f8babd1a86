"""Bark: text to speech in three stages, in the layouts of transformers and its authors."""
