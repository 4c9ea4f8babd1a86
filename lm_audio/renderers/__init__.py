"""Renderers turn the output tokens of a pipeline into audio."""
