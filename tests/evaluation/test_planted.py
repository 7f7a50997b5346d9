"""Planted taste has the statistics it claims, and the recovered share ends at 0 and 1 where it should."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.baselines import popularity_lists, popularity_order
from factorlake.evaluation.planted import PlantedTaste, recovered_share


@pytest.fixture(scope="module")
def taste() -> PlantedTaste:
    return PlantedTaste.make(800, 300, rank=10, seed=5, strength=2.0, popularity_exponent=0.8)


def best_lists(scores: np.ndarray, seen: list[np.ndarray], k: int) -> np.ndarray:
    open_scores = scores.copy()
    for row, known in zip(open_scores, seen, strict=True):
        row[known] = -np.inf
    return np.argsort(-open_scores, axis=1)[:, :k]


def compressed(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)]), np.concatenate(rows)


def test_the_taste_part_of_the_scores_has_the_planted_rank(taste: PlantedTaste) -> None:
    scores = taste.scores(slice(None)).astype(np.float64) - taste.log_popularity
    values = np.linalg.svd(scores, compute_uv=False)
    # float32 products: what lies beyond rank 10 is rounding, 2⁻²³ of the largest value times some sums.
    assert values[10] < 1e-5 * values[0] < values[9]


def test_taste_products_have_variance_one(taste: PlantedTaste) -> None:
    products = taste.user_taste @ taste.item_taste.T
    # Mean of χ²-like terms over 800 users and 300 items of rank 10: the standard deviation is near 3 %.
    assert products.var() == pytest.approx(1.0, abs=0.12)


def test_popularity_without_taste_falls_by_zipfs_law() -> None:
    plain = PlantedTaste.make(20_000, 400, seed=1, strength=0.0, popularity_exponent=0.8, activity_spread=0.5)
    _, items = plain.sample_pairs(100_000)
    counts = np.sort(np.bincount(items, minlength=400))[::-1]
    place = np.arange(10, 200)
    slope = np.polyfit(np.log(place + 1), np.log(counts[place]), 1)[0]
    # Drawing without replacement flattens the head; between ranks 10 and 200 of 400 the law still shows.
    assert slope == pytest.approx(-0.8, abs=0.1)


def test_activity_is_log_normal_in_spread() -> None:
    counts = PlantedTaste.make(20_000, 10_000, seed=2, activity_spread=0.8).items_per_user(2_000_000)
    # Rounding to whole items widens little at a mean of 100.
    assert np.log(counts).std() == pytest.approx(0.8, abs=0.03)
    assert counts.mean() == 100


def test_pairs_are_distinct_ordered_and_as_many_as_asked(taste: PlantedTaste) -> None:
    users, items = taste.sample_pairs(12_345)
    keys = users.astype(np.int64) * taste.n_items + items
    assert len(keys) == 12_345
    assert (np.diff(keys) > 0).all()
    assert np.bincount(users, minlength=taste.n_users).min() >= 1


@pytest.mark.parametrize("n_pairs", [800, 100_000, 239_999, 240_000])
def test_items_per_user_add_up_within_their_bounds(taste: PlantedTaste, n_pairs: int) -> None:
    counts = taste.items_per_user(n_pairs)
    assert counts.sum() == n_pairs
    assert counts.min() >= 1
    assert counts.max() <= (150 if n_pairs <= 120_000 else 300)


@pytest.mark.parametrize("n_pairs", [799, 240_001])
def test_a_number_of_pairs_that_cannot_be_is_refused(taste: PlantedTaste, n_pairs: int) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        taste.items_per_user(n_pairs)


def test_threads_do_not_change_the_pairs_and_streams_do() -> None:
    # Enough items that the users fall into several chunks.
    wide = PlantedTaste.make(600, 20_000, seed=3)
    one, two = wide.sample_pairs(30_000), wide.sample_pairs(30_000, threads=2)
    assert (one[1] == two[1]).all()
    assert (one[1] != wide.sample_pairs(30_000, stream=1)[1]).any()


def test_users_choose_by_the_planted_odds() -> None:
    # All users are one user, with one item each: frequencies must be the softmax of the scores.
    one = PlantedTaste.make(1, 6, seed=4, strength=1.0)
    many = PlantedTaste(
        **{
            **vars(one),
            "user_taste": np.repeat(one.user_taste, 40_000, axis=0),
            "activity": np.ones(40_000),
            "leniency": np.zeros(40_000, dtype=np.float32),
        }
    )
    _, items = many.sample_pairs(40_000)
    odds = np.exp(one.scores(slice(None))[0].astype(np.float64))
    # 40,000 draws: standard deviation at most 0.25 %, so five of them.
    assert np.bincount(items, minlength=6) / 40_000 == pytest.approx(odds / odds.sum(), abs=0.0125)


def test_what_users_dislike_goes_against_their_taste(taste: PlantedTaste) -> None:
    def mean_taste(liking: float) -> float:
        users, items = taste.sample_pairs(8_000, liking=liking)
        return float(np.einsum("nd,nd->n", taste.user_taste[users], taste.item_taste[items]).mean())

    assert mean_taste(-0.5) < -0.3 < 0.3 < mean_taste(1.0)


def test_stars_are_half_steps_that_follow_the_expected_stars(taste: PlantedTaste) -> None:
    users, items = taste.sample_pairs(8_000)
    stars = taste.stars(users, items)
    assert set(np.unique(stars)) <= set(np.arange(1, 5.5, 0.5))
    expected = taste.expected_stars(slice(None))[users, items]
    inside = (expected > 1.5) & (expected < 4.5)
    # Noise 0.2 and rounding to halves (0.5/√12) add up in squares.
    error = np.sqrt(np.mean((stars - expected)[inside] ** 2))
    assert error == pytest.approx(np.hypot(0.2, 0.5 / np.sqrt(12)), abs=0.01)


def test_the_same_seed_gives_the_same_pairs(taste: PlantedTaste) -> None:
    again = PlantedTaste.make(800, 300, rank=10, seed=5, strength=2.0, popularity_exponent=0.8)
    assert (taste.sample_pairs(5_000)[1] == again.sample_pairs(5_000)[1]).all()


@pytest.fixture(scope="module")
def judged(taste: PlantedTaste) -> tuple[np.ndarray, list[np.ndarray]]:
    users, items = taste.sample_pairs(16_000)
    return taste.scores(slice(None)), [items[users == user] for user in range(taste.n_users)]


def test_the_best_lists_recover_all_and_popularity_nothing(
    judged: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    scores, seen = judged
    ptr, items = compressed(seen)
    popular = popularity_lists(popularity_order(np.bincount(items, minlength=300)), ptr, items, 10)
    # float64 sums of the same terms in another order.
    assert recovered_share(scores, best_lists(scores, seen, 10), ptr, items) == pytest.approx(1, abs=1e-12)
    assert recovered_share(scores, popular, ptr, items) == 0


def test_noisier_knowledge_of_the_taste_recovers_less(judged: tuple[np.ndarray, list[np.ndarray]]) -> None:
    scores, seen = judged
    ptr, items = compressed(seen)
    rng = np.random.default_rng(8)
    shares = [
        recovered_share(scores, best_lists(scores + s * rng.standard_normal(scores.shape), seen, 10), ptr, items)
        for s in (0.5, 2.0, 8.0)
    ]
    assert 1 > shares[0] > shares[1] > shares[2]


def test_recovered_share_worked_by_hand() -> None:
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    # Seen is item 3 alone, so popularity (ties by position) lists 0, the best list too: nothing to recover.
    with pytest.raises(NumericalError, match="already the best"):
        recovered_share(scores, np.array([[1]]), np.array([0, 1]), np.array([3]))
    # With scores turned round, popularity lists item 0 (1), the best is 2 (3); item 1 lies half way.
    assert recovered_share(scores[:, ::-1], np.array([[1]]), np.array([0, 1]), np.array([3])) == 0.5


def test_users_with_empty_lists_are_left_out() -> None:
    scores = np.array([[1.0, 2.0, 3.0, 4.0]] * 2)
    share = recovered_share(scores, np.array([[1], [-1]]), np.array([0, 1, 2]), np.array([3, 3]))
    assert share == 0.5


def test_a_list_with_a_seen_item_is_refused() -> None:
    with pytest.raises(ConfigError, match="has seen"):
        recovered_share(np.ones((1, 3)), np.array([[2]]), np.array([0, 1]), np.array([2]))


@pytest.mark.parametrize(("users", "items", "rank"), [(0, 5, 2), (5, 0, 2), (5, 5, 0)])
def test_an_empty_population_is_refused(users: int, items: int, rank: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        PlantedTaste.make(users, items, rank=rank)


def test_the_inferred_taste_is_where_a_general_optimiser_ends() -> None:
    taste = PlantedTaste.make(40, 60, rank=3, seed=5)
    users, items = taste.sample_pairs(400)
    ptr = np.searchsorted(users, np.arange(41))
    found = taste.inferred_scores(ptr, items)
    q, popularity = taste.strength * taste.item_taste.astype(np.float64), taste.log_popularity.astype(np.float64)
    for user in (0, 7, 39):
        chosen = np.isin(np.arange(60), items[ptr[user] : ptr[user + 1]])

        def minus_log_density(unknown: NDArray[np.float64], chosen: NDArray[np.bool_] = chosen) -> float:
            rate = np.exp(q @ unknown[:3] + unknown[3] + popularity)
            told = np.log1p(-np.exp(-rate[chosen])).sum() - rate[~chosen].sum()
            return float(0.5 * unknown[:3] @ unknown[:3] - told)

        best = minimize(minus_log_density, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
        # BFGS takes differences for derivatives, which leaves it some 1e-5 off.
        np.testing.assert_allclose(found[user], q @ best.x[:3] + popularity, atol=1e-3)


def test_the_inferred_taste_nears_the_planted_one_with_more_items_and_is_popularity_without_any() -> None:
    taste = PlantedTaste.make(60, 2000, rank=3, seed=6, activity_spread=0.0)

    def correlation(n_each: int) -> float:
        users, items = taste.sample_pairs(60 * n_each)
        found = taste.inferred_scores(np.searchsorted(users, np.arange(61)), items) - taste.log_popularity
        planted = taste.scores(slice(0, 60)) - taste.log_popularity
        return float(np.mean([np.corrcoef(found[u], planted[u])[0, 1] for u in range(60)]))

    few, many = correlation(5), correlation(200)
    assert few < many
    assert many > 0.95
    nobody = taste.inferred_scores(np.zeros(2, np.int64), np.zeros(0, np.int64))
    np.testing.assert_array_equal(nobody[0], taste.log_popularity.astype(np.float64))
