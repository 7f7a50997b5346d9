"""Initial factors drawn from the hashes of ids.

Everything here is exact integer arithmetic and single IEEE operations, so the numbers are the same on any CPU
and do not depend on the order of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROWS_AT_ONCE = 65_536


def initial_factors(hashes: NDArray[np.int64], rank: int, seed: int, scale: float) -> NDArray[np.float32]:
    """Return the factors training starts from: each entry depends on (seed, hash of the id, column) only.

    Entries are uniform on ±√3·scale/√rank, so their standard deviation is scale/√rank.

    Parameters
    ----------
    hashes : (n,) int64, 64-bit hashes of the ids. No rows give an empty matrix.
    rank : number of columns.
    seed : any integer; its lowest 64 bits count.
    scale : standard deviation of an entry times √rank.

    Returns
    -------
    (n, rank) float32.

    Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix64); scale as in Rendle et al., RecSys 2022, section 3.2.
    """
    factors = np.empty((len(hashes), rank), dtype=np.float32)
    key_of_seed = _splitmix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    columns = np.arange(1, rank + 1, dtype=np.uint64) * _GOLDEN
    width = np.sqrt(3.0) * scale / np.sqrt(float(rank))
    for first in range(0, len(hashes), _ROWS_AT_ONCE):
        part = hashes[first : first + _ROWS_AT_ONCE].astype(np.int64).view(np.uint64)
        bits = _splitmix(_splitmix(part ^ key_of_seed)[:, None] + columns[None, :])
        # 24 bits, centred: every value is exact in float64 and the scaled one is rounded once.
        uniform = ((bits >> np.uint64(40)).astype(np.float64) + 0.5) / 2.0**23 - 1.0
        factors[first : first + _ROWS_AT_ONCE] = uniform * width
    return factors


def _splitmix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = state + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
