"""Duet: a semantic stage leads an acoustic stage; the model in the package is one."""
