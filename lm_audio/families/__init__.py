"""One folder for each published system: its stages, its readers and writers, its settings."""
