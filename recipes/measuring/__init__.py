"""What recipes/evaluate.py measures: which metrics, of what, and why others are missing."""
