"""Neighbours on one machine: of raw and predicted ratings, and what is recommended by them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics.pairwise import cosine_similarity

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.song_table import song_ratings
from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.neighbours_numpy import cosine_neighbours_numpy
from factorlake.models.blocks import order_ids
from factorlake.models.neighbours import (
    NeighbourRules,
    RankedLists,
    cosine_neighbours,
    predicted_directions,
    predicted_neighbours,
    predicted_root,
    recommend_from_items,
    recommend_from_users,
)
from factorlake.types import RatingBlock
from tests.models.problems import problem_of

# A dot product in float64 and its rounding to float32.
ONE_ROUNDING = 2.0**-23
# Two directions rounded to float32, and the rounding of their product.
TWO_DIRECTIONS = 2.0**-22


@dataclass(frozen=True)
class Scene:
    """A rating matrix by position, where 0 is missing, and its blocks."""

    users: list[str]
    items: list[str]
    ratings: NDArray[np.float32]
    user_blocks: list[RatingBlock]
    item_blocks: list[RatingBlock]

    @property
    def user_ranks(self) -> NDArray[np.int64]:
        return ranks(self.users)

    @property
    def item_ranks(self) -> NDArray[np.int64]:
        return ranks(self.items)

    def of_users(self, n: int, threads: int = 1, **rules: Any) -> RankedLists:
        given = NeighbourRules(n, **rules)
        return cosine_neighbours(self.user_blocks, len(self.items), given, self.user_ranks, threads)

    def of_items(self, n: int, threads: int = 1, **rules: Any) -> RankedLists:
        given = NeighbourRules(n, **rules)
        return cosine_neighbours(self.item_blocks, len(self.users), given, self.item_ranks, threads)


def ranks(ids: list[str]) -> NDArray[np.int64]:
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(np.array(ids, dtype=object), kind="stable")] = np.arange(len(ids))
    return rank


def scene_of(users: list[str], items: list[str], values: list[float], n_blocks: int = 8) -> Scene:
    problem = problem_of(users, items, np.array(values, np.float32), n_blocks)
    ratings = np.zeros((problem.n_users, problem.n_items), np.float32)
    ratings[problem.users, problem.items] = values
    return Scene(order_ids(users)[0], order_ids(items)[0], ratings, problem.user_blocks, problem.item_blocks)


def drawn(n_users: int, n_items: int, n_obs: int, seed: int, n_blocks: int = 8, signed: bool = False) -> Scene:
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_users * n_items, n_obs, replace=False)
    values = rng.choice([-2, -1, 1, 2] if signed else [1, 2, 3, 4, 5], n_obs)
    return scene_of([f"u{p // n_items}" for p in pairs], [f"i{p % n_items}" for p in pairs], values.tolist(), n_blocks)


@pytest.fixture(scope="module")
def songs() -> Scene:
    people, titles, ratings = song_ratings()
    return scene_of(people, titles, ratings.tolist())


@pytest.fixture(scope="module")
def movielens(data_dir: Path) -> Scene:
    table = pd.read_parquet(data_dir / "ml-100k" / "ratings.parquet", columns=["user", "item", "rating"])
    table = table[(table["user"] % 3 == 0) & (table["item"] % 2 == 0)]
    users, items = (table[name].astype(str).tolist() for name in ("user", "item"))
    return scene_of(users, items, table["rating"].astype(float).tolist())


def assert_same(one: RankedLists, other: RankedLists) -> None:
    assert np.array_equal(one.entries, other.entries)
    assert np.array_equal(one.values, other.values)
    assert np.array_equal(one.support, other.support)


def test_hermione_is_offered_back_in_black_then_the_brandenburg_concerto(songs: Scene) -> None:
    near = songs.of_users(3)
    hermione = songs.users.index("Hermione")
    assert [songs.users[row] for row in near.entries[hermione]] == ["Spock", "Ripley", "Darth Vader"]
    offered = recommend_from_users(songs.user_blocks, len(songs.items), near, 5, songs.item_ranks)
    told = [songs.items[item] for item in offered.entries[hermione] if item >= 0]
    assert told == ["Back in Black", "Brandenburg Concerto No. 3"]
    assert [f"{score:.2f}" for score in offered.values[hermione, :2]] == ["4.60", "3.31"]
    # Vader and Ripley have heard the one, Ripley and Spock the other.
    assert offered.support[hermione, :2].tolist() == [2, 2]


@pytest.mark.parametrize("side", ["user", "item"])
def test_neighbours_on_real_ratings_are_those_of_scikit_learn(movielens: Scene, side: str) -> None:
    lists = movielens.of_users(20) if side == "user" else movielens.of_items(20)
    ratings = movielens.ratings if side == "user" else movielens.ratings.T
    tie_rank = movielens.user_ranks if side == "user" else movielens.item_ranks
    similarity = cosine_similarity(csr_matrix(ratings.astype(np.float64)))
    np.fill_diagonal(similarity, 0)
    # Ratings are positive: what shares nothing has similarity 0, and nothing else has.
    similarity = similarity.astype(np.float32)
    for row in range(len(similarity)):
        order = np.lexsort((tie_rank, -similarity[row]))[:20]
        order = order[similarity[row, order] > 0]
        listed = lists.values[row, : len(order)]
        assert np.allclose(listed, similarity[row, order], rtol=0, atol=ONE_ROUNDING)
        assert np.all(lists.entries[row, len(order) :] == -1)
        # Where the two round differently, near-ties may change places; each still has the similarity it is listed with.
        near = lists.entries[row, : len(order)]
        assert np.allclose(listed, similarity[row, near], rtol=0, atol=ONE_ROUNDING)


@pytest.mark.parametrize("signed", [False, True])
def test_lists_equal_the_plain_twin_and_do_not_depend_on_blocks_or_threads(signed: bool) -> None:
    rules: dict[str, Any] = {"min_support": 2, "shrinkage": 1.5}
    for n_blocks, threads in ((1, 1), (4, 3), (16, 2)):
        scene = drawn(90, 40, 900, seed=1, n_blocks=n_blocks, signed=signed)
        wanted = cosine_neighbours_numpy(scene.ratings, 12, scene.user_ranks, **rules)
        assert_same(scene.of_users(12, threads, **rules), RankedLists(*wanted))
        wanted = cosine_neighbours_numpy(scene.ratings.T, 12, scene.item_ranks, **rules)
        assert_same(scene.of_items(12, threads, **rules), RankedLists(*wanted))


def test_a_single_row_and_no_rows_have_no_neighbours() -> None:
    alone = scene_of(["u", "u"], ["a", "b"], [1.0, 2.0])
    assert alone.of_users(3).entries.tolist() == [[-1, -1, -1]]
    nobody = cosine_neighbours([], 5, NeighbourRules(3), np.empty(0, np.int64))
    assert nobody.entries.shape == (0, 3)
    assert recommend_from_users([], 5, nobody, 2, np.arange(5)).entries.shape == (0, 2)


def test_equal_rows_are_ordered_by_id_and_lists_may_be_longer_than_there_are_rows() -> None:
    users = ["c", "a", "d", "b"]
    scene = scene_of(users * 2, ["x"] * 4 + ["y"] * 4, [3.0] * 8)
    lists = scene.of_users(5)
    for row, own in enumerate(scene.users):
        told = [scene.users[near] for near in lists.entries[row] if near >= 0]
        assert told == [user for user in sorted(users) if user != own]
    assert np.all(lists.values[:, :3] == 1) and np.all(lists.support[:, :3] == 2)


@pytest.mark.parametrize(
    "rules", [{"n": 0}, {"min_support": 0}, {"shrinkage": -1.0}, {"shrinkage": float("nan")}], ids=str
)
def test_rules_out_of_range_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(rules))} must be at least"):
        NeighbourRules(**rules)


def test_sizes_that_do_not_fit_and_values_that_are_no_numbers_are_refused() -> None:
    scene = drawn(10, 8, 40, seed=2)
    with pytest.raises(ConfigError, match="3 tie ranks"):
        cosine_neighbours(scene.user_blocks, 8, NeighbourRules(), np.arange(3))
    of_users, of_items = scene.of_users(3), scene.of_items(3)
    with pytest.raises(ConfigError, match="10 users, neighbours of 8"):
        recommend_from_users(scene.user_blocks, 8, of_items, 2, scene.item_ranks)
    with pytest.raises(ConfigError, match="neighbours of 10 items, 8 tie ranks"):
        recommend_from_items(scene.user_blocks, of_users, 2, scene.item_ranks)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        recommend_from_users(scene.user_blocks, 8, of_users, 0, scene.item_ranks)
    broken = scene_of(["u", "v"], ["a", "a"], [1.0, float("nan")])
    with pytest.raises(NumericalError, match=f"row {broken.users.index('v')} is nan"):
        broken.of_users(2)


def factors(n: int, rank: int, seed: int, biased: bool) -> tuple[Any, Any, Any]:
    """(factors, biases, hashes) of one side, in order of their hashes."""
    rng = np.random.default_rng(seed)
    hashes = np.sort(hash_ids([f"{seed}-{row}" for row in range(n)]))
    biases = rng.standard_normal(n).astype(np.float32) if biased else None
    return rng.standard_normal((n, rank)).astype(np.float32), biases, hashes


def predicted(x: Any, b_u: Any, y: Any, b_i: Any, mean: float) -> NDArray[np.float64]:
    """P, formed."""
    wide = x.astype(np.float64) @ y.astype(np.float64).T + mean
    wide += 0 if b_u is None else b_u.astype(np.float64)[:, None]
    return wide + (0 if b_i is None else b_i.astype(np.float64))


@pytest.mark.parametrize("mean", [0.0, 3.5])
@pytest.mark.parametrize("biased", [(False, False), (True, False), (False, True), (True, True)], ids=str)
def test_predicted_similarities_are_the_cosines_of_the_predicted_matrix(biased: tuple[bool, bool], mean: float) -> None:
    x, b_u, _ = factors(70, 5, 3, biased[0])
    y, b_i, hashes = factors(300, 5, 4, biased[1])
    p = predicted(x, b_u, y, b_i, mean)
    wanted = cosine_similarity(p)
    root = predicted_root(y, hashes, b_i, offsets=mean != 0 or any(biased))
    near, similarity = predicted_neighbours(x, root, 69, np.arange(70), b_u, mean)
    rows = np.arange(70)
    assert np.array_equal(np.sort(np.column_stack([near, rows]), axis=1), np.tile(rows, (70, 1)))
    assert np.allclose(similarity, wanted[rows[:, None], near], rtol=0, atol=TWO_DIRECTIONS)
    assert np.all(np.diff(similarity, axis=1) <= 0)


def test_predicted_similarities_between_items_use_the_users_gram() -> None:
    x, b_u, hashes = factors(120, 4, 5, True)
    y, b_i, _ = factors(50, 4, 6, True)
    wanted = cosine_similarity(predicted(x, b_u, y, b_i, 2.0).T)
    near, similarity = predicted_neighbours(y, predicted_root(x, hashes, b_u, True), 10, np.arange(50), b_i, 2.0)
    assert np.allclose(similarity, np.sort(wanted - 3 * np.eye(50), axis=1)[:, :-11:-1], rtol=0, atol=TWO_DIRECTIONS)
    assert np.allclose(similarity, wanted[np.arange(50)[:, None], near], rtol=0, atol=TWO_DIRECTIONS)


def test_predicted_rows_that_are_zero_have_no_neighbours_though_their_factors_are_not() -> None:
    # The items span two of three dimensions: users in the third are predicted to be zero everywhere.
    y, _, hashes = factors(40, 2, 7, False)
    turn = np.linalg.qr(np.random.default_rng(8).standard_normal((3, 3)))[0]
    flat = np.column_stack([y, np.zeros(40)]) @ turn
    x = np.array([[1, 2, 5], [2, 4, -1], [0, 0, 3], [-1, 1, 0]]) @ turn
    root = predicted_root(flat, hashes)
    assert root.shape == (3, 2)
    near, similarity = predicted_neighbours(x, root, 3, np.arange(4))
    assert near[0].tolist() == [1, 3, -1] and near[2].tolist() == [-1, -1, -1]
    assert similarity[0, 0] == 1 and similarity[2, 0] == -np.inf
    assert not np.any(near == 2)


def test_predicted_neighbours_of_a_constant_matrix_are_ordered_by_tie_rank() -> None:
    y, _, hashes = factors(30, 3, 9, False)
    root = predicted_root(y, hashes, offsets=True)
    near, similarity = predicted_neighbours(np.zeros((4, 3)), root, 2, np.array([3, 1, 0, 2]), mean=2.5)
    assert near.tolist() == [[2, 1], [2, 3], [1, 3], [2, 1]] and np.all(similarity == 1)


def test_directions_do_not_depend_on_the_rows_beside_them() -> None:
    x, b_u, _ = factors(200, 6, 10, True)
    y, b_i, hashes = factors(90, 6, 11, True)
    root = predicted_root(y, hashes, b_i, True)
    whole = predicted_directions(x, root, b_u, 1.5)
    alone = [predicted_directions(x[row : row + 1], root, b_u[row : row + 1], 1.5) for row in range(200)]
    assert np.array_equal(whole, np.concatenate(alone))


def test_no_items_and_no_users_predict_nothing() -> None:
    root = predicted_root(np.empty((0, 3)), np.empty(0, np.int64))
    near, _ = predicted_neighbours(np.ones((4, 3)), root, 2, np.arange(4))
    assert np.all(near == -1)
    y, _, hashes = factors(20, 3, 12, False)
    near, _ = predicted_neighbours(np.empty((0, 3)), predicted_root(y, hashes), 2, np.empty(0, np.int64))
    assert near.shape == (0, 2)


def test_factors_that_are_not_finite_and_biases_that_the_root_ignores_are_refused() -> None:
    y, b_i, hashes = factors(20, 3, 13, True)
    root = predicted_root(y, hashes)
    x = np.ones((5, 3), np.float32)
    with pytest.raises(ConfigError, match="make it with offsets"):
        predicted_neighbours(x, root, 2, np.arange(5), np.ones(5))
    x[3, 1] = np.inf
    with pytest.raises(NumericalError, match="row 3"):
        predicted_neighbours(x, root, 2, np.arange(5))
    y[7, 0] = np.nan
    with pytest.raises(NumericalError, match="row 7"):
        predicted_root(y, hashes, b_i, True)
    with pytest.raises(ConfigError, match="20 rows, 19 hashes"):
        predicted_root(y, hashes[:-1])


def plain_scores(scene: Scene, near: RankedLists, of_users: bool, mean: bool) -> NDArray[np.float64]:
    """Scores of every pair in plain loops; NaN where no neighbour tells."""
    r = scene.ratings.astype(np.float64)
    scores = np.full(r.shape, np.nan)
    for user in range(r.shape[0]):
        for item in range(r.shape[1]):
            row = user if of_users else item
            above = below = 0.0
            for other, similarity in zip(near.entries[row], near.values[row].astype(np.float64), strict=True):
                rating = 0.0 if other < 0 else r[other, item] if of_users else r[user, other]
                if rating != 0 and similarity > 0:
                    above += similarity * rating
                    below += similarity
            if below > 0:
                scores[user, item] = above / below if mean else above
    return scores


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("of_users", [True, False])
def test_recommendations_are_the_best_unknown_items_by_the_formula(of_users: bool, mean: bool, signed: bool) -> None:
    scene = drawn(40, 30, 350, seed=14, signed=signed)
    if of_users:
        near = scene.of_users(6)
        offered = recommend_from_users(scene.user_blocks, 30, near, 8, scene.item_ranks, mean=mean, threads=2)
    else:
        near = scene.of_items(6)
        offered = recommend_from_items(scene.user_blocks, near, 8, scene.item_ranks, mean=mean, threads=2)
    scores = plain_scores(scene, near, of_users, mean)
    scores[scene.ratings != 0] = np.nan
    for user in range(40):
        n_offered = min(8, int(np.sum(~np.isnan(scores[user]))))
        entries = offered.entries[user, :n_offered]
        assert np.all(offered.entries[user, n_offered:] == -1)
        # Sums of a handful of terms in float64, rounded once to float32.
        assert np.allclose(offered.values[user, :n_offered], scores[user, entries], rtol=2.0**-23, atol=0)
        best = np.sort(scores[user][~np.isnan(scores[user])])[::-1][:n_offered]
        assert np.allclose(offered.values[user, :n_offered], best, rtol=2.0**-23, atol=0)
        tied = np.flatnonzero(np.diff(offered.values[user, :n_offered]) == 0)
        assert np.all(scene.item_ranks[entries[tied]] < scene.item_ranks[entries[tied + 1]])


def test_ties_of_scores_go_by_item_id_and_an_item_needs_as_many_raters_as_asked() -> None:
    # Two twins of u rated b, c and d with 5; one of them alone rated e with 5 too.
    cells = [(user, item) for user in ("v", "w") for item in ("a", "d", "b", "c")]
    cells += [("u", "a"), ("v", "e")]
    scene = scene_of([user for user, _ in cells], [item for _, item in cells], [5.0] * len(cells))
    near = scene.of_users(2)
    user = scene.users.index("u")
    every = recommend_from_users(scene.user_blocks, len(scene.items), near, 9, scene.item_ranks)
    assert [scene.items[item] for item in every.entries[user] if item >= 0] == ["b", "c", "d", "e"]
    assert np.all(every.values[user, :4] == 5) and every.support[user, :4].tolist() == [2, 2, 2, 1]
    twice = recommend_from_users(scene.user_blocks, len(scene.items), near, 9, scene.item_ranks, min_support=2)
    assert [scene.items[item] for item in twice.entries[user] if item >= 0] == ["b", "c", "d"]


def test_recommendations_on_real_ratings_never_name_a_known_item(movielens: Scene) -> None:
    near = movielens.of_users(30, positive_only=True)
    by_users = recommend_from_users(movielens.user_blocks, len(movielens.items), near, 10, movielens.item_ranks)
    by_items = recommend_from_items(movielens.user_blocks, movielens.of_items(30), 10, movielens.item_ranks)
    for offered in (by_users, by_items):
        user, rank = np.nonzero(offered.entries >= 0)
        assert len(user) > 9 * len(movielens.users)
        assert not np.any(movielens.ratings[user, offered.entries[user, rank]])
