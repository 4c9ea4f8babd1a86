"""Measures of sound, of tokens and of models; each says which implementation it is equal to."""
