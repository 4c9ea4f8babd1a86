"""Formulas: each metric computes numbers from numbers, and no network is needed."""
