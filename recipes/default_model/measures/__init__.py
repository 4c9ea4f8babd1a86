"""Measurements of the default model for evaluate.py, and their targets."""
