"""Losses, optimizers, checkpoints and batches, shared by the recipes."""
