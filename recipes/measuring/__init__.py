"""The metrics of recipes/evaluate.py, with the reasons for missing ones."""
