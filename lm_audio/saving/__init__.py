"""Models on disk: lm-audio's own format, and safe readers for the files of others."""
