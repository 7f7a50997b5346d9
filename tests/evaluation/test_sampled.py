"""Held-out items ranked among given candidates, against sorted lists; the published leave-one-out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.sampled import candidate_ranks, metrics_of_ranks, sampled_metrics
from tests.reference import ranking as reference

# Both sides sum at most ten terms of order 1 in float64.
ROUNDING = 1e-12
Users = list[tuple[dict[int, float], set[int]]]


def compressed(users: Users) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """ptr, items and scores of the candidates, ptr and items of what was held out."""
    candidates = [list(scores.items()) for scores, _ in users]
    flat = [row for rows in candidates for row in rows]
    held = [sorted(items) for _, items in users]
    return (
        np.cumsum([0, *map(len, candidates)]),
        np.array([item for item, _ in flat], dtype=np.int64),
        np.array([score for _, score in flat], dtype=np.float64),
        np.cumsum([0, *map(len, held)]),
        np.array([item for items in held for item in items], dtype=np.int64),
    )


def test_ranks_and_metrics_worked_by_hand() -> None:
    # Item 7 is beaten by item 1 and tied with item 2; the tie counts against it: rank 3.
    users: Users = [({7: 0.5, 1: 0.9, 2: 0.5, 3: 0.1}, {7}), ({4: 2.0, 5: 1.0}, {4})]
    assert candidate_ranks(*compressed(users)).tolist() == [3, 1]
    figures = sampled_metrics(*compressed(users), 3)
    assert figures["hit@3"].tolist() == [1.0, 1.0]
    assert figures["ndcg@3"] == pytest.approx([1 / math.log2(4), 1.0], abs=ROUNDING)
    assert figures["mrr@3"] == pytest.approx([1 / 3, 1.0], abs=ROUNDING)
    assert sampled_metrics(*compressed(users), 2)["hit@2"].tolist() == [0.0, 1.0]


def test_a_constant_score_wins_nothing() -> None:
    users: Users = [(dict.fromkeys(range(100), 1.0), {user}) for user in range(5)]
    assert candidate_ranks(*compressed(users)).tolist() == [100] * 5
    assert all((values == 0).all() for values in sampled_metrics(*compressed(users), 99).values())


@st.composite
def scored_candidates(draw: st.DrawFn) -> tuple[Users, int]:
    users = []
    for _ in range(draw(st.integers(1, 4))):
        items = draw(st.lists(st.integers(0, 20), unique=True, min_size=1, max_size=9))
        # Few distinct scores, so that ties are common.
        scores = {item: draw(st.sampled_from([-1.0, 0.0, 0.5, 2.0])) for item in items}
        users.append((scores, set(draw(st.lists(st.sampled_from(items), unique=True, min_size=1, max_size=3)))))
    return users, draw(st.integers(1, 6))


@given(scored_candidates(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_metrics_equal_those_of_sorted_lists_in_any_order_of_rows(case: tuple[Users, int], random: object) -> None:
    users, k = case
    shuffled: Users = []
    for scores, held in users:
        rows = list(scores.items())
        random.shuffle(rows)  # type: ignore[attr-defined]
        shuffled.append((dict(rows), held))
    figures = sampled_metrics(*compressed(shuffled), k)
    for user, (scores, held) in enumerate(users):
        for name, value in reference.sampled(scores, held, k).items():
            assert figures[name][user] == pytest.approx(value, abs=ROUNDING), name


def test_ranks_given_as_negative_scores_come_back() -> None:
    ranks = np.random.default_rng(0).permutation(50) + 1
    found = candidate_ranks(np.array([0, 50]), np.arange(50), -ranks.astype(float), np.array([0, 3]), np.arange(3))
    assert found.tolist() == ranks[:3].tolist()


def test_a_candidate_that_is_the_held_out_item_counts_once() -> None:
    ptr, items, scores = np.array([0, 4]), np.array([5, 1, 5, 2]), np.array([1.0, 3.0, 1.0, 0.0])
    assert candidate_ranks(ptr, items, scores, np.array([0, 1]), np.array([5])).tolist() == [2]


def test_no_users_give_empty_figures() -> None:
    nothing = np.empty(0, np.int64)
    figures = sampled_metrics(np.array([0]), nothing, nothing.astype(float), np.array([0]), nothing, 10)
    assert all(len(values) == 0 for values in figures.values())


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ([({1: 1.0}, {2})], "not among"),
        ([({1: 1.0}, set())], "user 0 has no held-out item"),
    ],
)
def test_held_out_items_without_a_score_or_missing_are_refused(users: Users, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampled_metrics(*compressed(users), 5)


def test_input_that_would_give_a_wrong_figure_is_refused() -> None:
    one, two = np.array([0, 1]), np.array([0, 2])
    with pytest.raises(NumericalError, match="candidate 1 has the score nan"):
        candidate_ranks(two, np.array([1, 2]), np.array([0.0, math.nan]), one, np.array([1]))
    with pytest.raises(ConfigError, match="two scores"):
        candidate_ranks(two, np.array([1, 1]), np.array([0.0, 1.0]), one, np.array([1]))
    with pytest.raises(ConfigError, match="stands twice"):
        candidate_ranks(two, np.array([1, 2]), np.array([0.0, 1.0]), two, np.array([1, 1]))
    with pytest.raises(ConfigError, match="lengths differ"):
        candidate_ranks(two, np.array([1]), np.array([0.0]), one, np.array([1]))
    with pytest.raises(ConfigError, match="candidates are of 1 users"):
        candidate_ranks(two, np.array([1, 2]), np.array([0.0, 1.0]), np.array([0, 1, 2]), np.array([1, 2]))
    with pytest.raises(ConfigError, match="start at 1"):
        metrics_of_ranks(one, np.array([0]), 5)
    with pytest.raises(ConfigError, match="k must be"):
        metrics_of_ranks(one, np.array([1]), 0)


def test_popularity_reaches_its_published_figures_on_ml_1m(data_dir: Path) -> None:
    folder = data_dir / "ml-1m-ncf"
    counts = pd.read_parquet(folder / "train.parquet")["item"].value_counts()
    test = pd.read_parquet(folder / "test.parquet")[["user", "item"]].sort_values("user")
    drawn = pd.read_parquet(folder / "test_negative.parquet")[["user", "item"]]
    candidates = pd.concat([test, drawn]).sort_values("user", kind="stable")
    n_users = len(test)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(candidates["user"], minlength=n_users))])
    scores = np.asarray(candidates["item"].map(counts).fillna(0), np.float64)
    items, held_items = candidates["item"].to_numpy(), test["item"].to_numpy()
    figures = sampled_metrics(ptr, items, scores, np.arange(n_users + 1), held_items, 10)
    # Dacrema et al., TOIS 2021: 0.4535 and 0.2543, ties in some order; ours count them all against.
    assert figures["hit@10"].mean() == pytest.approx(0.4535, abs=0.001)
    assert figures["ndcg@10"].mean() == pytest.approx(0.2543, abs=0.001)
