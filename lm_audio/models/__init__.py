"""Language models over audio tokens, and the readers of checkpoints."""
