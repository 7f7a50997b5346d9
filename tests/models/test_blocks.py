"""Cutting ratings into logical blocks, and what rows weigh."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.kernels.packing import compress_rows
from factorlake.models.blocks import block_of, cut_blocks, number_of_blocks, order_ids
from factorlake.models.fit import fit_als
from factorlake.models.parameters import AlsParameters
from factorlake.models.weighting import confidence_and_target, ridge_counts, ridge_weights
from factorlake.types import RatingBlock
from tests.models.problems import HU_KOREN, MODERN, SPARK, problem_of, random_ids
from tests.reference.als import ridge_weight


@pytest.mark.parametrize(
    ("n_observed", "blocks"),
    [(1, 8), (199_999, 8), (200_000, 64), (256_000_000, 64), (256_000_001, 128), (2_000_000_000, 512)],
)
def test_the_number_of_blocks_is_fixed_by_the_ratings(n_observed: int, blocks: int) -> None:
    assert number_of_blocks(n_observed) == blocks


def test_blocks_cut_the_range_of_signed_hashes_evenly() -> None:
    hashes = np.array([-(2**63), -(2**61) - 1, -(2**61), -1, 0, 2**61, 2**63 - 1])
    assert block_of(hashes, 8).tolist() == [0, 2, 3, 3, 4, 5, 7]
    assert block_of(hashes, 1).tolist() == [0] * 7


def test_blocks_hold_every_rating_once_with_neighbours_ascending() -> None:
    problem = problem_of(*random_ids(50, 20, 400, seed=1, rating="stars"), n_blocks=16)
    for blocks, rows, neighbours in (
        (problem.user_blocks, problem.users, problem.items),
        (problem.item_blocks, problem.items, problem.users),
    ):
        found = []
        next_row = 0
        for block in blocks:
            assert block.first_row == next_row
            next_row += block.n_rows
            assert len(set(block_of(block.hashes, 16))) == 1
            for row in range(block.n_rows):
                part = slice(block.row_ptr[row], block.row_ptr[row + 1])
                assert np.all(np.diff(block.neighbours[part]) > 0)
                assert block.values is not None
                found += [
                    (block.first_row + row, int(j), float(r))
                    for j, r in zip(block.neighbours[part], block.values[part], strict=True)
                ]
        assert problem.values is not None
        assert sorted(found) == sorted(zip(rows.tolist(), neighbours.tolist(), problem.values.tolist(), strict=True))


def test_ids_are_ordered_by_signed_hash_whatever_their_order() -> None:
    ids = [f"item {n}" for n in range(200)]
    ordered, hashes = order_ids(ids[::-1] + ids[:50])
    assert sorted(ordered) == sorted(ids)
    assert np.all(np.diff(hashes) >= 0)
    assert order_ids(ids)[0] == ordered


def test_rows_that_do_not_follow_their_hashes_are_refused() -> None:
    with pytest.raises(ConfigError, match="order_ids"):
        cut_blocks(compress_rows(np.array([0, 1]), np.array([0, 0]), None, 2, 1), np.array([5, -5]), 8)


def test_rows_whose_hashes_lie_far_apart_are_taken() -> None:
    hashes = np.array([-(2**62) - 5, 2**62 + 5])
    blocks = cut_blocks(compress_rows(np.array([0, 1]), np.array([0, 0]), None, 2, 1), hashes, 8)
    assert [block.first_row for block in blocks] == [0, 1]


def test_weights_of_modern_ials() -> None:
    confidence, target = confidence_and_target(np.array([2.0, -3.0, 0.0], np.float32), MODERN)
    assert np.array_equal(confidence, [2, 3, 0])
    assert np.array_equal(target, [1, 0, 0])
    assert confidence_and_target(None, MODERN) == (1.0, 1.0)


def test_weights_of_hu_koren_volinsky_give_their_normal_equations() -> None:
    confidence, target = confidence_and_target(np.array([2.0, -3.0], np.float32), HU_KOREN)
    # c is what confidence adds to the 1 of every pair; c·t is (1 + αr) times the preference.
    assert np.array_equal(confidence, [6, 9])
    np.testing.assert_allclose(np.asarray(confidence) * target, [7, 0], rtol=1e-15)
    assert confidence_and_target(None, HU_KOREN) == (3.0, pytest.approx(4 / 3))


def test_explicit_ratings_are_their_own_targets() -> None:
    explicit = AlsParameters(objective="explicit")
    values = np.array([2.0, -1.0, 0.0], np.float32)
    confidence, target = confidence_and_target(values, explicit)
    assert confidence == 1.0
    assert target is values


@pytest.mark.parametrize(
    "parameters", [MODERN, SPARK, HU_KOREN, AlsParameters(objective="explicit", nu=0.5, kappa=0.3)]
)
def test_ridge_weights_equal_the_formula_counted_by_hand(parameters: AlsParameters) -> None:
    problem = problem_of(*random_ids(20, 12, 90, seed=2, rating="signed"))
    ratings = problem.ratings()
    for block in problem.user_blocks:
        weights = ridge_weights(ridge_counts(block, parameters), problem.n_items, parameters)
        wanted = [
            ridge_weight(ratings, parameters, 0, block.first_row + row, problem.n_items) for row in range(block.n_rows)
        ]
        np.testing.assert_allclose(weights, wanted, rtol=1e-15)


def test_a_block_without_rows_weighs_nothing() -> None:
    nothing = RatingBlock(0, np.zeros(1, np.int64), np.zeros(0, np.int32), None, np.zeros(0, np.int64))
    assert ridge_weights(ridge_counts(nothing, MODERN), 5, MODERN).shape == (0,)


@pytest.mark.parametrize(
    ("users", "items", "values", "message"),
    [
        ([], [], None, "no rating"),
        (["a", "a"], ["x", "x"], None, "more than once"),
        (["a", "b"], ["x", "x"], [1.0, np.nan], "row 1"),
        (["a"], ["x"], [0.0], "no rating"),
    ],
)
def test_ratings_that_cannot_be_trained_on_are_refused(
    users: list[str], items: list[str], values: list[float] | None, message: str
) -> None:
    with pytest.raises(DataRefusedError, match=message):
        fit_als(users, items, None if values is None else np.array(values), MODERN)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"regularization": -1.0}, {"alpha": 0.0}, {"epochs": 0}, {"alpha0": float("nan")}]
)
def test_parameters_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AlsParameters(**wrong)  # type: ignore[arg-type]


def test_fitted_models_recommend_nothing_already_rated_and_predict_what_they_score() -> None:
    fitted = fit_als(*random_ids(60, 30, 500, seed=3), MODERN)
    items, scores = fitted.recommend(5)
    for user in range(60):
        seen = fitted.seen_items[fitted.seen_ptr[user] : fitted.seen_ptr[user + 1]]
        assert not set(items[user]) & set(seen)
        predicted = fitted.predict(np.full(5, user), items[user].astype(np.int64))
        # float32 rounding of the same float64 sum.
        np.testing.assert_allclose(predicted, scores[user], rtol=1e-6, atol=1e-7)
