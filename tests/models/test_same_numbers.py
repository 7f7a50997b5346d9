"""Bit for bit the same factors for any threads, order of blocks, and order of input rows."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factorlake.kernels.row_solvers import SEGMENT
from factorlake.models.als import train
from factorlake.models.fit import fit_als
from factorlake.models.half_step import BlockSums, HalfStepTask, prepare_fixed, segments_of, solve_one_block
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.trained import TrainedModel
from tests.models.problems import EXPLICIT, FROBENIUS, MODERN, SPARK, Problem, problem_of, random_ids

CASES = [
    pytest.param(replace(MODERN, rank=16), "one", id="modern"),
    pytest.param(replace(SPARK, rank=16, solver="exact"), "signed", id="Spark, exact"),
    pytest.param(replace(EXPLICIT, rank=7), "stars", id="explicit with biases"),
    pytest.param(replace(EXPLICIT, rank=7, solver="exact"), "stars", id="explicit with biases, exact"),
    pytest.param(replace(MODERN, rank=20, solver="subspace"), "one", id="modern, subspace"),
    pytest.param(replace(MODERN, rank=16, nonnegative=True), "one", id="modern, nonnegative"),
    pytest.param(replace(EXPLICIT, rank=7, nonnegative=True), "stars", id="explicit with biases, nonnegative"),
    pytest.param(replace(FROBENIUS, rank=7), "stars", id="Frobenius"),
]


def bits(model: TrainedModel[ArrayRows]) -> list[bytes]:
    arrays: list[np.ndarray | None] = [
        model.user_factors,
        model.item_factors,
        model.item_gram,
        model.user_biases,
        model.item_biases,
    ]
    losses = np.array([row.loss for row in model.trace] + [model.mean])
    return [one.tobytes() for one in [*arrays, losses] if one is not None]


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_any_number_of_threads_gives_the_same_bits(parameters: AlsParameters, rating: str) -> None:
    users, items, values = random_ids(400, 150, 6000, seed=4, rating=rating)
    one = bits(fit_als(users, items, values, parameters, threads=1).model)
    for threads in (2, 4):
        assert bits(fit_als(users, items, values, parameters, threads=threads).model) == one


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_shuffled_input_gives_the_same_bits(parameters: AlsParameters, rating: str) -> None:
    users, items, values = random_ids(300, 100, 4000, seed=5, rating=rating)
    one = bits(fit_als(users, items, values, parameters).model)
    order = np.random.default_rng(6).permutation(len(users))
    shuffled = fit_als(
        [users[n] for n in order],
        [items[n] for n in order],
        None if values is None else values[order],
        parameters,
    )
    assert bits(shuffled.model) == one


class OneByOne(LocalPlan):
    """Each block alone, the last first, its long rows summed where it is solved."""

    def half_step(
        self, task: HalfStepTask, fixed: ArrayRows, own: ArrayRows | None
    ) -> tuple[ArrayRows, list[BlockSums]]:
        solved = []
        for block in reversed(self._blocks[task.side]):
            warm = None if own is None else own.array[block.first_row : block.first_row + block.n_rows]
            prepared = prepare_fixed(task.parameters, task.mean, fixed.array)
            solved.append(solve_one_block(task, block, prepared, warm))
        rows = np.concatenate([rows for rows, _ in reversed(solved)])
        return self.hold(task.side, rows), [sums for _, sums in reversed(solved)]


def assert_same_bits_one_by_one(problem: Problem, parameters: AlsParameters) -> None:
    with LocalPlan(problem.user_blocks, problem.item_blocks, parameters, threads=2) as plan:
        in_order = bits(train(plan, parameters))
    with OneByOne(problem.user_blocks, problem.item_blocks, parameters) as plan:
        assert bits(train(plan, parameters)) == in_order


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_blocks_solved_in_any_order_give_the_same_bits(parameters: AlsParameters, rating: str) -> None:
    assert_same_bits_one_by_one(problem_of(*random_ids(200, 90, 3000, seed=7, rating=rating)), parameters)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_a_row_too_long_for_one_thread_gets_the_same_bits(parameters: AlsParameters, rating: str) -> None:
    users, items, values = random_ids(900, 40, 3000, seed=8, rating=rating)
    more = [f"another {n}" for n in range(SEGMENT + 10)]
    told = None if values is None else np.concatenate([values, np.resize(values, len(more))])
    problem = problem_of([*users, *more], [*items, *(["an item of all"] * len(more))], told)
    assert sum(len(segments_of(block.row_ptr)) for block in problem.item_blocks) == 2
    assert_same_bits_one_by_one(problem, replace(parameters, rank=4, epochs=2))


def test_another_process_with_many_blas_threads_gives_the_same_bits() -> None:
    program = (
        "import hashlib\n"
        "from tests.models.problems import MODERN, random_ids\n"
        "from tests.models.test_same_numbers import bits\n"
        "from factorlake.models.fit import fit_als\n"
        "model = fit_als(*random_ids(300, 100, 4000, seed=5), MODERN).model\n"
        "print(hashlib.sha256(b''.join(bits(model))).hexdigest())"
    )
    root = Path(__file__).parents[2]
    digests = set()
    for threads in ("1", "4"):
        surroundings = os.environ | {
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "lib")]),
        }
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=surroundings,
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
