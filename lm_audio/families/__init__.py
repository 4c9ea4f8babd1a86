"""One folder per published system: its stages, readers, writers and settings."""
