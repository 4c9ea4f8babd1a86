"""What evaluate.py measures of the default model, and the targets that it is held to."""
