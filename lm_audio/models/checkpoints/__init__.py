"""Readers and writers of checkpoints that others publish: files to parts, and back."""
