"""The parts of which transformers are made."""
