"""Synthetic speech: sentences, voices, and captions that describe the speaker and delivery."""
