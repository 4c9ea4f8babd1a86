"""Models on disk: our own folder, and reading the files of others without running code."""
