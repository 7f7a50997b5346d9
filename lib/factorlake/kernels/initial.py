"""64-bit hashes of ids, and initial factors drawn from them.

Everything here is exact integer arithmetic and single IEEE operations, so the numbers are the same on any CPU
and do not depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROWS_AT_ONCE = 65_536

UInt64Vector = NDArray[np.uint64]


def hash_ids(ids: Sequence[str] | NDArray[np.str_] | NDArray[np.object_], seed: int = 42) -> NDArray[np.int64]:
    """Return xxHash64 of each id's UTF-8 bytes, signed: what Spark SQL's ``xxhash64`` gives for a string
    column.

    Parameters
    ----------
    ids : n strings. None gives an empty array.
    seed : Spark's is 42.

    Returns
    -------
    (n,) int64.

    Source: Y. Collet, xxHash specification, "XXH64 algorithm description".
    """
    encoded = [str(one).encode("utf-8") for one in ids]
    lengths = np.fromiter((len(one) for one in encoded), dtype=np.int64, count=len(encoded))
    hashes = np.empty(len(encoded), dtype=np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        packed = b"".join(encoded[row] for row in rows)
        hashes[rows] = _xxh64(np.frombuffer(packed, dtype=np.uint8).reshape(len(rows), int(length)), seed)
    return hashes.view(np.int64)


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


def _splitmix(state: UInt64Vector) -> UInt64Vector:
    mixed = state + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _rotate_left(words: UInt64Vector, bits: int) -> UInt64Vector:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _round(accumulator: UInt64Vector, words: UInt64Vector) -> UInt64Vector:
    return _rotate_left(accumulator + words * _P2, 31) * _P1


def _words(data: NDArray[np.uint8], start: int, dtype: str) -> UInt64Vector:
    width = np.dtype(dtype).itemsize
    return np.ascontiguousarray(data[:, start : start + width]).view(dtype)[:, 0].astype(np.uint64)


def _xxh64(data: NDArray[np.uint8], seed: int) -> UInt64Vector:
    """xxHash64 of n strings of one length, given as an (n, length) byte matrix."""
    n, length = data.shape
    start = np.full(n, seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
    done = 0
    if length >= 32:
        lanes = [start + _P1 + _P2, start + _P2, start.copy(), start - _P1]
        while length - done >= 32:
            lanes = [_round(lane, _words(data, done + 8 * i, "<u8")) for i, lane in enumerate(lanes)]
            done += 32
        rotated = [_rotate_left(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)]
        digest = rotated[0] + rotated[1] + rotated[2] + rotated[3]
        for lane in lanes:
            digest = (digest ^ _round(np.zeros_like(lane), lane)) * _P1 + _P4
    else:
        digest = start + _P5
    digest = digest + np.uint64(length)
    while length - done >= 8:
        digest = digest ^ _round(np.zeros_like(digest), _words(data, done, "<u8"))
        digest = _rotate_left(digest, 27) * _P1 + _P4
        done += 8
    if length - done >= 4:
        digest = _rotate_left(digest ^ (_words(data, done, "<u4") * _P1), 23) * _P2 + _P3
        done += 4
    for position in range(done, length):
        digest = _rotate_left(digest ^ (data[:, position].astype(np.uint64) * _P5), 11) * _P1
    digest = (digest ^ (digest >> np.uint64(33))) * _P2
    digest = (digest ^ (digest >> np.uint64(29))) * _P3
    return digest ^ (digest >> np.uint64(32))
