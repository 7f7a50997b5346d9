"""Ranking metrics against worked examples, a slow second implementation and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from factorlake.errors import ConfigError
from factorlake.evaluation.ranking import (
    PADDING,
    coverage,
    mean_popularity,
    novelty,
    popularity_lift,
    ranking_metrics,
)
from tests.reference import ranking as reference

# Both sides sum at most ten terms of order 1 in float64: only the order of additions can differ.
ROUNDING = 1e-12


def compressed(truths: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.cumsum([0, *map(len, truths)])
    return ptr, np.array([item for truth in truths for item in truth], dtype=np.int64)


def test_metrics_of_a_list_worked_by_hand() -> None:
    # Of the truth {4, 7, 9} the list 7, 1, 4, 2 finds two, at ranks 1 and 3.
    figures = ranking_metrics(np.array([[7, 1, 4, 2]]), *compressed([[4, 7, 9]]), 4)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    expected = {
        "ndcg@4": (1 + 1 / 2) / ideal,
        "recall@4": 2 / 3,
        "recall_min@4": 2 / 3,
        "precision@4": 2 / 4,
        "map@4": (1 + 2 / 3) / 3,
        "mrr@4": 1.0,
        "hit@4": 1.0,
    }
    assert set(figures) == set(expected)
    for name, value in expected.items():
        assert figures[name] == pytest.approx([value], abs=ROUNDING), name


def test_recall_min_reaches_one_where_recall_cannot() -> None:
    figures = ranking_metrics(np.array([[0, 1]]), *compressed([[0, 1, 2, 3]]), 2)
    assert figures["recall@2"] == [0.5]
    assert figures["recall_min@2"] == [1.0]
    assert figures["ndcg@2"] == [1.0]


@st.composite
def judged_lists(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], int]:
    k = draw(st.integers(1, 6))
    n_users = draw(st.integers(1, 5))
    lists, truths = [], []
    for _ in range(n_users):
        listed = draw(st.lists(st.integers(0, 9), unique=True, max_size=k))
        lists.append(listed + [-1] * (k - len(listed)))
        truths.append(draw(st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=8)))
    return lists, truths, k


@given(judged_lists())
@settings(max_examples=200, deadline=None)
def test_metrics_equal_the_definitions_written_as_loops(
    case: tuple[list[list[int]], list[list[int]], int],
) -> None:
    lists, truths, k = case
    figures = ranking_metrics(np.array(lists), *compressed(truths), k)
    for user, (listed, truth) in enumerate(zip(lists, truths, strict=True)):
        for name, value in reference.user_metrics(listed, set(truth), k).items():
            assert figures[name][user] == pytest.approx(value, abs=ROUNDING), name


def test_ndcg_equals_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((40, 30))
    relevant = rng.random((40, 30)) < 0.2
    relevant[:, 0] = True
    lists = np.argsort(-scores, axis=1)[:, :10]
    figures = ranking_metrics(lists, *compressed([list(np.flatnonzero(row)) for row in relevant]), 10)
    for user in range(40):
        theirs = ndcg_score(relevant[user : user + 1], scores[user : user + 1], k=10)
        assert figures["ndcg@10"][user] == pytest.approx(theirs, abs=ROUNDING)


def test_map_of_a_whole_ranking_equals_scikit_learns_average_precision() -> None:
    rng = np.random.default_rng(4)
    scores = rng.random((30, 25))
    relevant = rng.random((30, 25)) < 0.3
    relevant[:, 3] = True
    lists = np.argsort(-scores, axis=1)
    figures = ranking_metrics(lists, *compressed([list(np.flatnonzero(row)) for row in relevant]), 25)
    for user in range(30):
        theirs = average_precision_score(relevant[user], scores[user])
        assert figures["map@25"][user] == pytest.approx(theirs, abs=ROUNDING)


def test_a_shorter_cut_off_ignores_later_ranks() -> None:
    figures = ranking_metrics(np.array([[1, 2, 5]]), *compressed([[5]]), 2)
    assert figures["hit@2"] == [0.0]


def test_no_users_give_empty_figures() -> None:
    figures = ranking_metrics(np.empty((0, 3), dtype=np.int64), np.array([0]), np.empty(0, dtype=np.int64), 3)
    assert all(len(values) == 0 for values in figures.values())


@pytest.mark.parametrize(
    ("lists", "truths", "k", "message"),
    [
        ([[1, 2], [3, 4]], [[1], []], 2, "user 1 has no held-out item"),
        ([[1, 1]], [[1]], 2, "twice in one list"),
        ([[1, 2]], [[1, 1]], 2, "twice in one user's truth"),
        ([[1, 2]], [[1]], 3, "at least k = 3 columns"),
        ([[1, 2]], [[1]], 0, "k must be at least 1"),
        ([[1, 2]], [[1], [2]], 2, "truth_ptr"),
    ],
)
def test_input_that_would_give_a_wrong_figure_is_refused(
    lists: list[list[int]], truths: list[list[int]], k: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ranking_metrics(np.array(lists), *compressed(truths), k)


def test_coverage_counts_each_listed_item_once() -> None:
    assert coverage(np.array([[0, 1, 5], [1, 2, -1]]), 6, 2) == 3 / 6


def test_coverage_of_no_lists_is_zero() -> None:
    assert coverage(np.empty((0, 5), dtype=np.int64), 4, 5) == 0.0


def test_coverage_refuses_an_item_outside_the_catalogue() -> None:
    with pytest.raises(ConfigError, match="names item 9"):
        coverage(np.array([[9]]), 4, 1)


def test_novelty_and_popularity_lift_worked_by_hand() -> None:
    # Of 8 users all chose item 0, two chose item 1, none chose item 2: 0, 2 and (as if one had) 3 bits.
    popularity = np.array([8, 2, 0])
    lists = np.array([[0, 1, 2], [1, -1, -1]])
    assert novelty(lists, popularity, 8, 3) == pytest.approx([5 / 3, 2.0], abs=ROUNDING)
    assert novelty(lists, popularity, 8, 2) == pytest.approx([1.0, 2.0], abs=ROUNDING)
    # The first user's own items are chosen by 4 on average, the second's by 2.
    own = np.array([4.0, 2.0])
    assert popularity_lift(lists, popularity, own, 3) == pytest.approx([10 / 3 / 4, 1.0], abs=ROUNDING)


def test_mean_popularity_of_nothing_is_zero() -> None:
    means = mean_popularity(np.array([0, 2, 2, 3]), np.array([0, 1, 2]), np.array([5, 2, 1]))
    assert means.tolist() == [3.5, 0.0, 1.0]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[int]], list[set[int]], int]:
    """Lists of some users, what all users chose, and k. Each user chose and is listed something."""
    k = draw(st.integers(1, 9))
    items = st.integers(0, 11)
    chosen = draw(st.lists(st.sets(items, min_size=1), min_size=1, max_size=7))
    return [draw(st.lists(items, unique=True, min_size=1, max_size=k)) for _ in chosen], chosen, k


@given(histories())
@settings(max_examples=150, deadline=None)
def test_novelty_and_lift_equal_the_definitions_written_as_loops(
    case: tuple[list[list[int]], list[set[int]], int],
) -> None:
    lists, chosen, k = case
    known = dict(enumerate(chosen))
    counts = reference.popularity_of(known)
    popularity = np.array([counts.get(item, 0) for item in range(12)])
    padded = np.array([listed + [PADDING] * (k - len(listed)) for listed in lists])
    own = mean_popularity(*compressed([sorted(items) for items in chosen]), popularity)
    bits, lift = novelty(padded, popularity, len(chosen), k), popularity_lift(padded, popularity, own, k)
    for user, listed in enumerate(lists):
        assert bits[user] == pytest.approx(reference.novelty(listed, known, k), abs=ROUNDING)
        assert lift[user] == pytest.approx(reference.popularity_lift(listed, chosen[user], known, k), rel=ROUNDING)


def test_popularity_itself_has_the_least_novelty() -> None:
    rng = np.random.default_rng(5)
    popularity = rng.integers(0, 50, 40)
    best = np.argsort(-popularity)[None, :10]
    for _ in range(50):
        other = rng.permutation(40)[None, :10]
        assert novelty(best, popularity, 50, 10) <= novelty(other, popularity, 50, 10) + ROUNDING


@pytest.mark.parametrize(
    ("lists", "popularity", "message"),
    [
        ([[0], [-1]], [1, 1], "user 1 has nothing listed"),
        ([[2]], [1, 1], "names item 2"),
        ([[0]], [-1, 1], "negative"),
        ([[0]], [9, 1], "chosen by 9 users"),
    ],
)
def test_lists_without_a_popularity_are_refused(lists: list[list[int]], popularity: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        novelty(np.array(lists), np.array(popularity), 5, 1)


def test_users_without_known_items_have_no_lift() -> None:
    with pytest.raises(ConfigError, match="user 1 has no known item"):
        popularity_lift(np.array([[0], [0]]), np.array([3]), np.array([1.0, 0.0]), 1)
    with pytest.raises(ConfigError, match="own_popularity"):
        popularity_lift(np.array([[0], [0]]), np.array([3]), np.array([1.0]), 1)


def test_no_lists_have_no_novelty_and_no_lift() -> None:
    nobody = np.empty((0, 3), dtype=np.int64)
    assert len(novelty(nobody, np.array([1]), 1, 3)) == 0
    assert len(popularity_lift(nobody, np.array([1]), np.empty(0), 3)) == 0
