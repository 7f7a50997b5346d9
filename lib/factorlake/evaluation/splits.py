"""Which events judge a model and which train it: by time, by each user's last item, by hash.

Every rule depends on the contents of the log alone, never on the order of its rows, and is written so that
the Spark layer follows it with columns; the docstrings give the expression. Users and items stand for
positions in the order by (signed xxhash64 of the id, id). Each split is True where an event is held out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.types import IntVector

MICROSECONDS_PER_DAY = 86_400_000_000

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_SPARK_SEED = np.uint64(42)


def holdout_cutoff(times: NDArray[np.int64], holdout_days: float) -> int:
    """Return the newest time less `holdout_days`: the last moment a model may know of.

    Parameters
    ----------
    times : (n_events,) microseconds since 1970 UTC.

    Raises
    ------
    ConfigError : no events.
    """
    if len(times) == 0:
        raise ConfigError("a cut-off needs at least one event with a time")
    return int(times.max()) - round(holdout_days * MICROSECONDS_PER_DAY)


def time_split(times: NDArray[np.int64], cutoff: int) -> NDArray[np.bool_]:
    """Hold out the events after the cut-off; the event at the cut-off itself trains.

    In columns: ``event_time > cutoff``.

    Parameters
    ----------
    times : (n_events,) in the unit of `cutoff` (elsewhere microseconds since 1970 UTC). May be empty.
    """
    return np.asarray(times) > cutoff


def leave_last_out(users: IntVector, items: IntVector, times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Hold out each user's last item: every event of the pair whose latest event is the user's latest.

    All events of the pair go, or its answer would stand in the training part. Of items with equal latest
    times the one greatest in position is taken. A user with a single item keeps it: nothing would be left to
    know the user by.

    In columns, over one row a pair with ``last = max(event_time)``: held out is the row with ``row_number() =
    1`` over ``PARTITION BY user_id ORDER BY last DESC, xxhash64(item_id) DESC, item_id DESC``, where
    ``count(*)`` over the user is above 1.

    Parameters
    ----------
    users, items : (n_events,) positions. times : (n_events,). May be empty.

    Raises
    ------
    ConfigError : lengths differ.
    """
    if not len(users) == len(items) == len(times):
        raise ConfigError(f"lengths differ: {len(users)} users, {len(items)} items, {len(times)} times")
    if len(users) == 0:
        return np.zeros(0, dtype=bool)
    order = np.lexsort((items, times, users))
    last_row = np.append(users[order][1:] != users[order][:-1], True)
    last_item = np.full(int(users.max()) + 1, -1, dtype=np.int64)
    last_item[users[order][last_row]] = items[order][last_row]
    held = items == last_item[users]
    # A user all of whose events are held out has one item only.
    has_more = np.bincount(users, weights=~held) > 0
    return held & has_more[users]


def hash_split(
    user_hashes: NDArray[np.int64], item_hashes: NDArray[np.int64], share: float, seed: int = 0
) -> NDArray[np.bool_]:
    """Hold out about `share` of the pairs, each by a hash of its own, whatever else the log holds.

    In columns: ``shiftrightunsigned(xxhash64(CAST(seed AS BIGINT), xxhash64(user_id), xxhash64(item_id)), 11)
    < share * 9007199254740992D`` (2⁵³: the 53 leading bits of the hash, which a double holds exactly).

    Parameters
    ----------
    user_hashes, item_hashes : (n_events,) signed xxhash64 of the ids. May be empty.
    share : in [0, 1].
    seed : 64-bit; another seed holds out other pairs.

    Raises
    ------
    ConfigError : lengths differ or `share` out of range.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share must lie between 0 and 1, got {share}")
    if len(user_hashes) != len(item_hashes):
        raise ConfigError(f"lengths differ: {len(user_hashes)} user hashes, {len(item_hashes)} item hashes")
    start = _xxhash64_of_long(np.array([seed], dtype=np.int64), _SPARK_SEED)
    pair = _xxhash64_of_long(item_hashes, _xxhash64_of_long(user_hashes, start))
    return (pair >> np.uint64(11)).astype(np.float64) < share * 2.0**53


def _xxhash64_of_long(values: NDArray[np.int64], seed: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """xxHash64 of eight bytes, little-endian: Spark's xxhash64 of a BIGINT, which hashes further columns by
    taking the hash so far as seed."""
    with np.errstate(over="ignore"):  # The algorithm is arithmetic modulo 2⁶⁴.
        word = np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)
        mixed = seed + _PRIME_5 + np.uint64(8)
        mixed = mixed ^ (_rotate_left(word * _PRIME_2, 31) * _PRIME_1)
        mixed = _rotate_left(mixed, 27) * _PRIME_1 + _PRIME_4
        mixed = (mixed ^ (mixed >> np.uint64(33))) * _PRIME_2
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _PRIME_3
        return mixed ^ (mixed >> np.uint64(32))


def _rotate_left(words: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))
