"""64-bit hashes of ids: exact integer arithmetic, the same on any CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.types import IntVector

from .arrays import read_only

SEED = 42
"""Of Spark SQL's ``xxhash64``."""

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


def hash_ids(ids: Sequence[str] | NDArray[np.str_] | NDArray[np.object_]) -> NDArray[np.int64]:
    """Return `hash_bytes` of each id's UTF-8 bytes: what Spark SQL's ``xxhash64`` gives for a string column.

    Parameters
    ----------
    ids : n strings. None gives an empty array.
    """
    encoded = [str(one).encode("utf-8") for one in ids]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(one) for one in encoded], out=offsets[1:])
    return hash_bytes(np.frombuffer(b"".join(encoded), np.uint8), offsets)


def hash_bytes(text: NDArray[np.uint8], offsets: IntVector) -> NDArray[np.int64]:
    """Return the signed xxHash64 of n strings that lie one after the other.

    Parameters
    ----------
    text : the strings' bytes.
    offsets : (n + 1,) where each begins, and where the last ends: an Arrow string array's own. The offsets are trusted.

    Returns
    -------
    (n,) int64, with Spark's seed.

    Source: Y. Collet, xxHash specification, "XXH64 algorithm description".
    """
    return _hash_all(read_only(text, np.uint8), read_only(offsets, np.int64), np.uint64(SEED)).view(np.int64)


def hash_longs(values: NDArray[np.int64], seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the xxHash64 of the eight bytes, little-endian, of n numbers: Spark's ``xxhash64`` of a BIGINT, which
    hashes further columns by taking the hash so far as seed.

    Parameters
    ----------
    values, seeds : (n,) each. Empty arrays give an empty array.
    """
    return _hash_words(read_only(values, np.int64).view(np.uint8), read_only(seeds, np.uint64))


# Every number is a uint64: numba makes a float of a uint64 and an int64.
@njit(cache=True, nogil=True)
def _rotate_left(word: np.uint64, bits: int) -> np.uint64:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@njit(cache=True, nogil=True)
def _round(accumulator: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate_left(accumulator + word * _P2, 31) * _P1


@njit(cache=True, nogil=True)
def _word(text: NDArray[np.uint8], at: int, size: int) -> np.uint64:
    """Return ``size`` bytes as a little-endian number."""
    word = np.uint64(0)
    for byte in range(size):
        word |= np.uint64(text[at + byte]) << np.uint64(8 * byte)
    return word


@njit(cache=True, nogil=True)
def _hash_one(text: NDArray[np.uint8], at: int, end: int, seed: np.uint64) -> np.uint64:
    length = end - at
    if length >= 32:
        lane_0, lane_1, lane_2, lane_3 = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
        while end - at >= 32:
            lane_0 = _round(lane_0, _word(text, at, 8))
            lane_1 = _round(lane_1, _word(text, at + 8, 8))
            lane_2 = _round(lane_2, _word(text, at + 16, 8))
            lane_3 = _round(lane_3, _word(text, at + 24, 8))
            at += 32
        digest = _rotate_left(lane_0, 1) + _rotate_left(lane_1, 7) + _rotate_left(lane_2, 12) + _rotate_left(lane_3, 18)
        for lane in (lane_0, lane_1, lane_2, lane_3):
            digest = (digest ^ _round(np.uint64(0), lane)) * _P1 + _P4
    else:
        digest = seed + _P5
    digest += np.uint64(length)
    while end - at >= 8:
        digest = _rotate_left(digest ^ _round(np.uint64(0), _word(text, at, 8)), 27) * _P1 + _P4
        at += 8
    if end - at >= 4:
        digest = _rotate_left(digest ^ (_word(text, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        digest = _rotate_left(digest ^ (np.uint64(text[at]) * _P5), 11) * _P1
        at += 1
    digest = (digest ^ (digest >> np.uint64(33))) * _P2
    digest = (digest ^ (digest >> np.uint64(29))) * _P3
    return digest ^ (digest >> np.uint64(32))


@njit(cache=True, nogil=True)
def _hash_all(text: NDArray[np.uint8], offsets: NDArray[np.int64], seed: np.uint64) -> NDArray[np.uint64]:
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for one in range(len(hashes)):
        hashes[one] = _hash_one(text, offsets[one], offsets[one + 1], seed)
    return hashes


@njit(cache=True, nogil=True)
def _hash_words(text: NDArray[np.uint8], seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    hashes = np.empty(len(seeds), np.uint64)
    for one in range(len(hashes)):
        hashes[one] = _hash_one(text, 8 * one, 8 * one + 8, seeds[one])
    return hashes
