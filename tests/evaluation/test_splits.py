"""Splits: worked examples, order without effect, and the hash against xxHash64 from its specification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlake.errors import ConfigError
from factorlake.evaluation.splits import (
    MICROSECONDS_PER_DAY,
    HashedIds,
    hash_split,
    holdout_cutoff,
    last_n_out,
    per_user_fold,
    per_user_split,
    time_split,
)

LONGS = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def xxhash64(data: bytes, seed: int) -> int:
    """xxHash64 of at most 31 bytes, from the specification, in unbounded integers."""

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & MASK

    state = (seed + P5 + len(data)) & MASK
    while len(data) >= 8:
        lane = rotated(int.from_bytes(data[:8], "little") * P2 & MASK, 31) * P1 & MASK
        state = (rotated(state ^ lane, 27) * P1 + P4) & MASK
        data = data[8:]
    if len(data) >= 4:
        state = (rotated(state ^ (int.from_bytes(data[:4], "little") * P1 & MASK), 23) * P2 + P3) & MASK
        data = data[4:]
    for byte in data:
        state = rotated(state ^ (byte * P5 & MASK), 11) * P1 & MASK
    state = (state ^ state >> 33) * P2 & MASK
    state = (state ^ state >> 29) * P3 & MASK
    return state ^ state >> 32


def spark_xxhash64(*longs: int) -> int:
    """Spark hashes the columns in turn, each with the hash so far as seed, from 42 on."""
    state = 42
    for value in longs:
        state = xxhash64(value.to_bytes(8, "little", signed=True), state)
    return state


def test_the_hash_in_this_file_gives_the_published_test_vectors() -> None:
    # Of nothing: the test vector of the specification. Of "Spark": the example in Spark's SQL reference.
    assert xxhash64(b"", 0) == 0xEF46DB3751D8E999
    assert xxhash64(b"Spark", 42) == -4294468057691064905 & MASK


@given(LONGS, LONGS, LONGS, st.floats(0, 1))
@settings(deadline=None)
def test_hash_split_holds_out_what_sparks_hash_of_the_pair_says(user: int, item: int, seed: int, share: float) -> None:
    held = hash_split(np.array([user]), np.array([item]), share, seed)
    assert held[0] == ((spark_xxhash64(seed, user, item) >> 11) < share * 2**53)


def test_hash_split_takes_about_its_share_and_other_pairs_for_another_seed() -> None:
    rng = np.random.default_rng(1)
    users, items = rng.integers(-(2**63), 2**63 - 1, (2, 100_000))
    first, second = hash_split(users, items, 0.2, seed=1), hash_split(users, items, 0.2, seed=2)
    # 100,000 pairs: standard deviation 0.13 %, so six of them.
    assert first.mean() == pytest.approx(0.2, abs=0.008)
    assert (first & second).mean() == pytest.approx(0.04, abs=0.004)


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (1.0, True)])
def test_hash_split_at_its_ends_holds_out_nothing_or_all(share: float, expected: bool) -> None:
    users = np.arange(1000)
    assert (hash_split(users, users, share) == expected).all()


def test_a_larger_share_holds_out_the_same_pairs_and_more() -> None:
    users = np.arange(5000)
    assert (hash_split(users, users + 7, 0.3) >= hash_split(users, users + 7, 0.1)).all()


def test_hash_split_refuses_a_share_that_is_none() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        hash_split(np.array([1]), np.array([1]), 20.0)


def counts_of_users(pairs: np.ndarray) -> dict[str, int]:
    return {str(user): int(n) for user, n in zip(*np.unique(pairs[:, 0], return_counts=True), strict=True)}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=200), st.floats(0, 1), LONGS)
@settings(deadline=None)
def test_per_user_holds_out_a_share_of_each_user_least_hash_first_and_leaves_each_something(
    drawn: list[tuple[int, int]], share: float, seed: int
) -> None:
    events = np.array(drawn)
    users, items = (HashedIds(events[:, side], 1000 * side - 7 * events[:, side]) for side in (0, 1))
    held = per_user_split(users, items, share, seed)
    for user in {int(one) for one in events[:, 0]}:
        own = {int(item) for item in events[events[:, 0] == user, 1]}
        first = sorted(own, key=lambda item: (spark_xxhash64(seed, -7 * user, 1000 - 7 * item) >> 11, item))
        wanted = min(len(own) - 1, max(1, int(share * len(own) + 0.5)))
        assert {int(item) for item in events[held & (events[:, 0] == user), 1]} == set(first[:wanted])


def test_folds_by_user_hold_out_each_pair_once_and_leave_each_user_something() -> None:
    rng = np.random.default_rng(3)
    events = np.stack([rng.integers(0, 50, 1000), rng.integers(0, 60, 1000)], axis=1)
    events = np.concatenate([events, [[50, 0]]])
    hashes = rng.integers(-(2**63), 2**63 - 1, (2, 61))
    users, items = (HashedIds(events[:, side], hashes[side][events[:, side]]) for side in (0, 1))
    held = np.stack([per_user_fold(users, items, number, 4, seed=5) for number in range(4)])
    # User 50 has one pair, which stays.
    assert (held.sum(axis=0) == (events[:, 0] != 50)).all()
    for fold in held:
        assert len(counts_of_users(events[~fold])) == 51
        # Of n pairs a fold takes a fourth, up or down; pairs are counted without their copies.
        for user, n in counts_of_users(np.unique(events, axis=0)).items():
            taken = counts_of_users(np.unique(events[fold], axis=0)).get(user, 0)
            assert taken in ((n // 4, -(-n // 4)) if n > 1 else (0,))


def test_a_split_by_user_of_nothing_is_empty_and_of_no_share_or_fold_refused() -> None:
    nothing = HashedIds(np.empty(0, np.int64), np.empty(0, np.int64))
    one = HashedIds(np.array([1]), np.array([1]))
    assert len(per_user_split(nothing, nothing, 0.1)) == len(per_user_fold(nothing, nothing, 0, 2)) == 0
    with pytest.raises(ConfigError, match="between 0 and 1"):
        per_user_split(nothing, nothing, 20.0)
    with pytest.raises(ConfigError, match="no fold 2 of 2"):
        per_user_fold(nothing, nothing, 2, 2)
    with pytest.raises(ConfigError, match="lengths differ"):
        per_user_split(one, nothing, 0.1)


def test_the_event_at_the_cutoff_trains_and_the_next_one_is_held_out() -> None:
    times = np.array([0, 5, 10]) * MICROSECONDS_PER_DAY
    cutoff = holdout_cutoff(times, 5)
    assert time_split(times, cutoff).tolist() == [False, False, True]
    assert time_split(times + 1, cutoff).tolist() == [False, True, True]


def test_a_cutoff_of_no_events_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one event"):
        holdout_cutoff(np.empty(0, dtype=np.int64), 1)


def test_last_n_worked_by_hand() -> None:
    events = [
        # user, item, time, held out
        (0, 3, 10, True),  # A pair goes with all its events,
        (0, 4, 20, False),
        (0, 3, 30, True),  # the latest of which is the user's latest.
        (1, 2, 5, False),
        (1, 6, 5, True),  # Equal times: the item greatest in position.
        (2, 1, 9, False),  # A single item stays, however many events it has.
        (2, 1, 11, False),
    ]
    users, items, times, held = (np.array(column) for column in zip(*events, strict=True))
    assert last_n_out(users, items, times).tolist() == held.tolist()
    # Of two last items the oldest item of a user stays all the same.
    two = [True, False, True, False, True, False, False]
    assert last_n_out(users, items, times, 2).tolist() == two
    assert last_n_out(np.append(users, 0), np.append(items, 9), np.append(times, 1), 2).tolist() == [
        True, True, True, False, True, False, False, False
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), max_size=30),
    st.integers(1, 4),
    st.randoms(),
)
@settings(deadline=None)
def test_last_n_takes_the_last_items_of_each_user_but_the_oldest_whatever_the_order(
    events: list[tuple[int, int, int]], n: int, random: object
) -> None:
    columns = np.array(events, dtype=np.int64).reshape(-1, 3)
    held = last_n_out(columns[:, 0], columns[:, 1], columns[:, 2], n)
    for user in set(columns[:, 0].tolist()):
        mine = columns[:, 0] == user
        latest: dict[int, int] = {}
        for _, item, time in columns[mine].tolist():
            latest[item] = max(time, latest.get(item, time))
        newest_first = sorted(latest, key=lambda item: (latest[item], item), reverse=True)
        expected = set(newest_first[:n]) - {newest_first[-1]}
        assert set(columns[held & mine, 1].tolist()) == expected
        assert set(columns[mine & ~held, 1].tolist()) == set(latest) - expected
    order = np.arange(len(columns))
    random.shuffle(order)  # type: ignore[attr-defined]
    mixed = columns[order]
    assert (last_n_out(mixed[:, 0], mixed[:, 1], mixed[:, 2], n) == held[order]).all()


def test_last_n_of_no_events_is_empty_and_of_no_items_refused() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert len(last_n_out(nothing, nothing, nothing)) == 0
    with pytest.raises(ConfigError, match="n must be at least 1"):
        last_n_out(nothing, nothing, nothing, 0)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="lengths differ"):
        last_n_out(np.array([1]), np.array([1, 2]), np.array([1]))
