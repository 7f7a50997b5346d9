"""Ranking metrics against worked examples, a slow second implementation and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from factorlake.errors import ConfigError
from factorlake.evaluation.ranking import coverage, ranking_metrics

# Both sides sum at most ten terms of order 1 in float64: only the order of additions can differ.
ROUNDING = 1e-12


def compressed(truths: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.cumsum([0, *map(len, truths)])
    return ptr, np.array([item for truth in truths for item in truth], dtype=np.int64)


def slow_metrics(listed: list[int], truth: set[int], k: int) -> dict[str, float]:
    """The definitions, word by word, for one user."""
    dcg = ideal = precisions = 0.0
    hits, first = 0, 0
    for rank in range(1, k + 1):
        if rank <= len(truth):
            ideal += 1 / math.log2(rank + 1)
        if listed[rank - 1] in truth:
            hits += 1
            dcg += 1 / math.log2(rank + 1)
            precisions += hits / rank
            first = first or rank
    best = min(k, len(truth))
    return {
        f"ndcg@{k}": dcg / ideal,
        f"recall@{k}": hits / len(truth),
        f"recall_min@{k}": hits / best,
        f"precision@{k}": hits / k,
        f"map@{k}": precisions / best,
        f"mrr@{k}": 1 / first if first else 0.0,
        f"hit@{k}": 1.0 if hits else 0.0,
    }


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
        for name, value in slow_metrics(listed, set(truth), k).items():
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
