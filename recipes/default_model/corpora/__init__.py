"""Corpora for the default model: sound effects, music and speech from programs, with captions."""
