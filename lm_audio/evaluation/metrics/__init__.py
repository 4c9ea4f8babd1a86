"""Metrics: pure computations on numbers, without networks."""
