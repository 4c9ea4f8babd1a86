"""Duet: a semantic stage conditions an acoustic stage; the architecture of the default model."""
