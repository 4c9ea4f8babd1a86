"""Renderers turn the last tokens of a pipeline into sound."""
