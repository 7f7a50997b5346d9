"""Which events judge a model and which train it: by time, by each user's last items, by hash, by a share of each user.

Every rule depends on the contents of the log alone, never on the order of its rows, and is written so that
the Spark layer follows it with columns; the docstrings give the expression. Users and items stand for
positions in the order by (signed xxhash64 of the id, id). Each split is True where an event is held out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.kernels.hashing import SEED, hash_longs
from factorlake.types import IntVector

MICROSECONDS_PER_DAY = 86_400_000_000


class HashedIds(NamedTuple):
    """The ids of one column: (n_events,) positions, and the signed xxhash64 of each id."""

    positions: NDArray[np.int64]
    hashes: NDArray[np.int64]


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


def last_n_out(users: IntVector, items: IntVector, times: NDArray[np.int64], n: int = 1) -> NDArray[np.bool_]:
    """Hold out each user's last n items: every event of the pairs whose latest events are the user's latest.

    All events of a pair go, or its answer would stand in the training part. Of items with equal latest times those
    greatest in position are taken first. A user's oldest item always stays: nothing would be left to know the user by.

    In columns, over one row a pair with ``last = max(event_time)`` and ``place = row_number()`` over ``PARTITION BY
    user_id ORDER BY last DESC, xxhash64(item_id) DESC, item_id DESC``: held out are the rows with ``place <= n`` and
    ``place < count(*)`` over the user.

    Parameters
    ----------
    users, items : (n_events,) positions. times : (n_events,). May be empty.
    n : at least 1.

    Raises
    ------
    ConfigError : lengths differ, or n below 1.
    """
    if not len(users) == len(items) == len(times):
        raise ConfigError(f"lengths differ: {len(users)} users, {len(items)} items, {len(times)} times")
    if n < 1:
        raise ConfigError(f"n must be at least 1, got {n}")
    if len(users) == 0:
        return np.zeros(0, dtype=bool)
    stride = np.int64(items.max()) + 1
    pair, of_event = np.unique(np.asarray(users, np.int64) * stride + items, return_inverse=True)
    last = np.full(len(pair), np.iinfo(np.int64).min)
    np.maximum.at(last, of_event, times)
    owner = pair // stride
    order = np.lexsort((pair, last, owner))
    size = np.bincount(owner)
    # Places count from a user's last pair, from 1.
    place = np.empty(len(pair), np.int64)
    place[order] = np.cumsum(size)[owner[order]] - np.arange(len(pair))
    held = (place <= n) & (place < size[owner])
    return held[of_event]


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
    return _pair_hash(user_hashes, item_hashes, seed).astype(np.float64) < share * 2.0**53


def per_user_split(users: HashedIds, items: HashedIds, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Hold out about `share` of each user's pairs, chosen by hash: at least one, and never all.

    Where lists are judged users count alike, so those with few pairs must be asked as surely as those with many; a hash
    of the pairs alone would ask mostly the latter. All events of a pair go together. Who has one pair keeps it.

    In columns, over one row a pair with ``place = row_number()`` over ``PARTITION BY user_id ORDER BY hash,
    xxhash64(item_id), item_id``, ``hash`` being that of `hash_split`, and ``n = count(*)`` over the user: held out are
    the rows with ``place <= least(n - 1, greatest(1, floor(share * n + 0.5)))``.

    Parameters
    ----------
    users, items : of each event. May be empty.
    share : in [0, 1].

    Raises
    ------
    ConfigError : lengths differ or `share` out of range.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share must lie between 0 and 1, got {share}")
    place, size = _places(users, items, seed)
    return place < np.minimum(size - 1, np.maximum(1, np.floor(share * size + 0.5)))


def per_user_fold(users: HashedIds, items: HashedIds, number: int, folds: int, seed: int = 0) -> NDArray[np.bool_]:
    """Hold out a user's pairs in turn: each pair of a user with several is held out in one of the folds.

    In columns, with place and n as in `per_user_split`: ``n > 1 AND pmod(place - 1 + pmod(xxhash64(user_id), folds),
    folds) = number``.

    Parameters
    ----------
    number : of the fold, from 0. folds : at least 2. Others as `per_user_split`.

    Raises
    ------
    ConfigError : lengths differ, or there is no such fold.
    """
    if not 0 <= number < folds or folds < 2:
        raise ConfigError(f"there is no fold {number} of {folds}: folds count from 0, and are at least two")
    place, size = _places(users, items, seed)
    turn = users.hashes % folds
    held: NDArray[np.bool_] = (size > 1) & ((place + turn) % folds == number)
    return held


def _pair_hash(user_hashes: NDArray[np.int64], item_hashes: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return the 53 leading bits of each pair's hash."""
    start = hash_longs(np.array([seed], dtype=np.int64), np.array([SEED], dtype=np.uint64))
    pair = hash_longs(item_hashes, hash_longs(user_hashes, np.repeat(start, len(user_hashes))))
    return pair >> np.uint64(11)


def _places(users: HashedIds, items: HashedIds, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, of each event, its pair's place among the user's pairs by hash, from 0, and how many those are."""
    lengths = {len(column) for column in (*users, *items)}
    if len(lengths) > 1:
        raise ConfigError(f"lengths differ: {sorted(lengths)} positions and hashes")
    if lengths == {0}:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    stride = np.int64(items.positions.max()) + 1
    of_events = np.asarray(users.positions, np.int64) * stride + items.positions
    pair, first, of_event = np.unique(of_events, return_index=True, return_inverse=True)
    owner = pair // stride
    hashes = _pair_hash(users.hashes[first], items.hashes[first], seed)
    order = np.lexsort((pair, hashes, owner))
    size = np.bincount(owner)
    place = np.empty(len(pair), np.int64)
    place[order] = np.arange(len(pair)) - (np.cumsum(size) - size)[owner[order]]
    return place[of_event], size[owner][of_event]
