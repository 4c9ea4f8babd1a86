"""The decode loop, for every stage alike."""
