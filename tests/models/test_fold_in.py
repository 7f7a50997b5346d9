"""Fold-in solves the very system that training's last half step solved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factorlake.models.als import train
from factorlake.models.fold_in import FoldedRows, fold_in_rows, turned_items
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.systems import user_system
from factorlake.models.threads import single_threaded_blas
from factorlake.models.trained import TrainedModel
from factorlake.types import RatingBlock
from tests.models.problems import (
    EXPLICIT,
    FROBENIUS,
    HU_KOREN,
    MODERN,
    NO_BIASES,
    SPARK,
    Problem,
    problem_of,
    random_ids,
)

CASES = [
    pytest.param(MODERN, "one", id="modern"),
    pytest.param(SPARK, "signed", id="Spark"),
    pytest.param(HU_KOREN, "stars", id="Hu-Koren-Volinsky"),
    pytest.param(EXPLICIT, "stars", id="explicit with biases"),
    pytest.param(NO_BIASES, "stars", id="explicit without biases"),
    pytest.param(replace(MODERN, nonnegative=True), "one", id="modern, nonnegative"),
    pytest.param(replace(EXPLICIT, nonnegative=True), "stars", id="explicit with biases, nonnegative"),
    pytest.param(FROBENIUS, "stars", id="Frobenius"),
]


def fitted(parameters: AlsParameters, rating: str) -> tuple[Problem, TrainedModel[ArrayRows]]:
    problem = problem_of(*random_ids(90, 40, 1200, seed=8, rating=rating))
    with LocalPlan(problem.user_blocks, problem.item_blocks, parameters) as plan:
        return problem, train(plan, parameters)


def folded(model: TrainedModel[ArrayRows], parameters: AlsParameters, block: RatingBlock, n_items: int) -> FoldedRows:
    with single_threaded_blas():
        system = user_system(parameters, model.mean, model.item_gram, n_items)
        items = turned_items(system, model.item_factors, model.item_biases)
        return fold_in_rows(block.row_ptr, block.neighbours, block.values, system, items)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_fold_in_equals_full_solve_for_known_user_bit_for_bit(parameters: AlsParameters, rating: str) -> None:
    problem, model = fitted(replace(parameters, rank=12), rating)
    for block in problem.user_blocks:
        rows = slice(block.first_row, block.first_row + block.n_rows)
        got = folded(model, replace(parameters, rank=12), block, problem.n_items)
        assert np.array_equal(got.factors, model.user_factors[rows])
        if model.user_biases is not None:
            assert got.biases is not None
            assert np.array_equal(got.biases, model.user_biases[rows])


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_one_user_alone_gets_the_same_bits_as_among_others(parameters: AlsParameters, rating: str) -> None:
    problem, model = fitted(parameters, rating)
    block = problem.user_blocks[0]
    together = folded(model, parameters, block, problem.n_items).factors
    for row in range(block.n_rows):
        part = slice(block.row_ptr[row], block.row_ptr[row + 1])
        alone = RatingBlock(
            0,
            np.array([0, part.stop - part.start]),
            block.neighbours[part],
            None if block.values is None else block.values[part],
            block.hashes[:1],
        )
        assert np.array_equal(folded(model, parameters, alone, problem.n_items).factors[0], together[row])


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_a_row_without_ratings_gets_zeros(parameters: AlsParameters, rating: str) -> None:
    problem, model = fitted(parameters, rating)
    nobody = RatingBlock(0, np.zeros(2, np.int64), np.zeros(0, np.int32), None, np.zeros(1, np.int64))
    assert not folded(model, parameters, nobody, problem.n_items).factors.any()
