"""Conditioners: turn a user's prompts into input tensors of a token language model."""
