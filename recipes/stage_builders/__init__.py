"""The stages of each family as recipes/train_stage.py trains them: settings, sizes, new weights."""
