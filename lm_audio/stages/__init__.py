"""What a stage is, and the compositions that make pipelines of stages."""
