"""Decode steps on a CPU: our kernels, and the fallback to torch."""
