"""A low-discrepancy sequence: numbers that fill the range evenly from the first one on.

It is the van der Corput sequence, the first dimension of Sobol's, with a digital shift: any 2 ** k
numbers whose first index is a multiple of 2 ** k are one in each of as many equal parts of the
range.
"""

import numpy as np

_BITS = 32


def low_discrepancy(first: int, count: int, *, seed: int) -> np.ndarray:
    """Numbers first to first + count of the sequence of a seed: [count], float64 in [0, 1)."""
    indices = np.arange(first, first + count, dtype=np.uint64)
    mirrored = np.zeros(count, dtype=np.uint64)
    for _ in range(_BITS):
        mirrored = (mirrored << np.uint64(1)) | (indices & np.uint64(1))
        indices >>= np.uint64(1)
    shift = np.uint64(np.random.default_rng([seed, 4]).integers(2**_BITS))
    return (mirrored ^ shift).astype(np.float64) / 2**_BITS
