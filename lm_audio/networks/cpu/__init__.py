"""How a CPU computes a step: the kernels, and what torch does where they cannot be used."""
