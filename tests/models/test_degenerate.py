"""Matrices at the edge: finite factors that solve their rows, or an error that names the cause and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.models.als import train
from factorlake.models.fit import pack_ratings
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.trained import TrainedModel
from factorlake.types import Solver
from tests.models.problems import EXPLICIT, FROBENIUS, HU_KOREN, MODERN, NO_BIASES, SPARK, problem_of
from tests.reference.als import dense_objective

Triples = Sequence[tuple[str, str, float]]
LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def dense(n_users: int, n_items: int, value: Callable[[int, int], float]) -> Triples:
    return [(f"u{u}", f"i{i}", value(u, i)) for u in range(n_users) for i in range(n_items)]


def scattered(n_users: int, n_items: int, share: float, value: Callable[[int, int], float]) -> Triples:
    rng = np.random.default_rng(n_users)
    kept = rng.random((n_users, n_items)) < share
    return [(f"u{u}", f"i{i}", value(u, i)) for u, i in np.argwhere(kept).tolist()]


def drawn(low: float, high: float, seed: int = 3) -> Callable[[int, int], float]:
    numbers = np.random.default_rng(seed).uniform(low, high, (64, 64))
    return lambda u, i: float(numbers[u, i])


MATRICES: dict[str, Triples] = {
    "one cell": [("u", "i", 1.0)],
    "one cell of 0": [("u", "i", 0.0)],
    "one cell below 0": [("u", "i", -2.0)],
    "one user": dense(1, 12, drawn(1, 5)),
    "one item": dense(12, 1, drawn(1, 5)),
    "two users that share nothing": [("u", "i", 3.0), ("v", "j", 4.0)],
    "all equal": dense(9, 7, lambda u, i: 3.0),
    "all 0": dense(9, 7, lambda u, i: 0.0),
    "all below 0": dense(9, 7, lambda u, i: -1.0 - u),
    "both signs": dense(9, 7, lambda u, i: (-1.0) ** (u + i)),
    "rank 1": dense(9, 7, lambda u, i: (u + 1.0) * (i + 1.0)),
    "rank 2, of more": dense(9, 7, lambda u, i: (u + 1.0) + (i + 1.0) ** 2),
    "all ones": dense(9, 7, lambda u, i: 1.0),
    "equal users": dense(9, 7, lambda u, i: 1.0 + i),
    "equal items": dense(9, 7, lambda u, i: 1.0 + u),
    "fewer cells than the rank": scattered(5, 5, 0.1, drawn(1, 5)),
    "a cell a user": [(f"u{n}", "i", float(n)) for n in range(12)],
    "a user of everything": [*dense(1, 30, drawn(1, 5)), *((f"v{n}", "i0", 1.0) for n in range(9))],
    "an item of everyone": [*dense(30, 1, drawn(1, 5)), *(("u0", f"j{n}", 1.0) for n in range(9))],
    "blocks that share nothing": [
        (f"{name}u{u}", f"{name}i{i}", 1.0 + u + i) for name in "abc" for u in range(4) for i in range(3)
    ],
    "a pair apart from a block": [*dense(6, 5, drawn(1, 5)), ("apart", "alone", 5.0)],
    "a chain": [(f"u{n}", f"i{n + step}", 1.0) for n in range(12) for step in (0, 1)],
    "identity": [(f"u{n}", f"i{n}", 1.0) for n in range(12)],
    "constant items": dense(9, 7, lambda u, i: 5.0 if i % 2 else 1.0),
    "one value apart": dense(9, 7, lambda u, i: 1000.0 if u == i == 3 else 1.0),
    "1e-38": dense(9, 7, lambda u, i: 1e-38 * (1 + u)),
    "smallest of float32": dense(9, 7, lambda u, i: SMALLEST),
    "below float32's smallest": dense(9, 7, lambda u, i: 1e-44),
    "1e-20 to 1e20": dense(9, 7, lambda u, i: 10.0 ** (5 * (u - 4))),
    "1e10": dense(9, 7, lambda u, i: 1e10 * (1 + u)),
    "1e18": dense(9, 7, lambda u, i: 1e18 * (1 + u)),
    "1e38": dense(9, 7, lambda u, i: 1e38),
    "greatest of float32": dense(9, 7, lambda u, i: LARGEST),
    "1e38 of both signs": dense(9, 7, lambda u, i: 1e38 * (-1.0) ** (u + i)),
    "one cell of 1e38": [*dense(6, 5, drawn(1, 5)), ("u0", "far", 1e38)],
    "one cell of -1e38": [*dense(6, 5, drawn(1, 5)), ("u0", "far", -1e38)],
    "wide": scattered(3, 60, 0.5, drawn(1, 5)),
    "tall": scattered(60, 3, 0.5, drawn(1, 5)),
    "0 but for a cell": dense(9, 7, lambda u, i: float(u == i == 3)),
    "a row of 0": dense(9, 7, lambda u, i: 0.0 if u == 2 else 1.0 + i),
}
"""What is observed, and nothing else."""
EXTREME = {
    *(
        "1e-38",
        "smallest of float32",
        "below float32's smallest",
        "1e-20 to 1e20",
        "1e18",
        "1e38",
        "greatest of float32",
    ),
    *("1e38 of both signs", "one cell of 1e38", "one cell of -1e38"),
}
"""Whose squares or products are beyond float32: these alone may be refused under a ridge that is none of RIDGES' edges.
"""
RIDGES = (1.0, 0.0, 1e12, 1e-30)
"""Times λ."""
OBJECTIVES = {
    "modern": MODERN,
    "Spark": SPARK,
    "Hu-Koren": HU_KOREN,
    "biases": EXPLICIT,
    "no biases": NO_BIASES,
    "not negative": replace(MODERN, nonnegative=True),
    "Frobenius": FROBENIUS,
}
# What may become of a matrix: nothing else is an answer. Each says what is wrong, then what helps.
WAYS_OUT = r"look for extreme values or raise the regularization|leave negative ones out"


def fitted(triples: Triples, parameters: AlsParameters) -> tuple[TrainedModel[ArrayRows], dict[tuple[int, int], float]]:
    users, items, values = (list(column) for column in zip(*triples, strict=True))
    problem = problem_of(users, items, np.array(values, np.float32))
    with LocalPlan(problem.user_blocks, problem.item_blocks, parameters, threads=1) as plan:
        return train(plan, parameters), problem.ratings()


def check(triples: Triples, parameters: AlsParameters, may_refuse: bool) -> None:
    """Train, and see that what comes out is finite and solves the users' side, or is refused where it may be."""
    try:
        model, ratings = fitted(triples, parameters)
    except (NumericalError, DataRefusedError) as refused:
        assert re.search(WAYS_OUT, str(refused)), refused
        assert may_refuse, refused
        return
    found = [model.user_factors, model.item_factors, model.item_gram, np.array([model.mean, model.loss])]
    found += [biases for biases in (model.user_biases, model.item_biases) if biases is not None]
    for numbers in found:
        assert np.isfinite(numbers).all()
    biases = model.user_biases, model.item_biases
    told = dense_objective(ratings, model.user_factors, model.item_factors, parameters, *biases, model.mean)
    at_zero = dense_objective(
        ratings,
        np.zeros_like(model.user_factors),
        model.item_factors,
        parameters,
        None if biases[0] is None else np.zeros_like(biases[0]),
        biases[1],
        model.mean,
    )
    # Users are the lowest point for these items, so at least as good as none; float32 rounds them.
    scale = sum(abs(value) for value in ratings.values()) ** (2 if parameters.objective != "implicit" else 1)
    assert told <= at_zero * (1 + 1e-5) + 1e-5 * min(scale, 1e300)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", MATRICES)
def test_a_degenerate_matrix_gives_finite_factors_or_says_what_is_wrong(name: str, objective: str) -> None:
    parameters = OBJECTIVES[objective]
    solvers: list[Solver] = ["auto"] if parameters.nonnegative else ["auto", "exact", "subspace"]
    negative = parameters.objective == "frobenius" and min(value for _, _, value in MATRICES[name]) < 0
    for ridge in RIDGES:
        for solver in solvers:
            changed = replace(parameters, regularization=parameters.regularization * ridge, solver=solver)
            check(MATRICES[name], changed, may_refuse=negative or name in EXTREME or ridge != 1.0)


@pytest.mark.parametrize(
    "weights", [{"alpha0": 1e9}, {"alpha0": 0.0}, {"alpha0": 1e-30}, {"alpha": 1e9}, {"alpha": 1e-9}]
)
@pytest.mark.parametrize("name", ["one cell", "all ones", "both signs", "identity", "1e10", "all 0", "1e38"])
def test_weights_at_the_edge_give_finite_factors_or_say_what_is_wrong(name: str, weights: dict[str, Any]) -> None:
    solvers: list[Solver] = ["auto", "exact", "subspace"]
    for solver in solvers:
        check(MATRICES[name], replace(MODERN, **weights, solver=solver), may_refuse=name in EXTREME)


def test_there_are_forty_of_them() -> None:
    assert len(MATRICES) == 40


def test_no_ratings_at_all_are_refused() -> None:
    with pytest.raises(DataRefusedError):
        pack_ratings([], [], None, MODERN)


@pytest.mark.parametrize("value", [float("nan"), -1.0, float("inf")])
@pytest.mark.parametrize(
    "name",
    ["regularization", "item_regularization", "alpha0", "alpha", "kappa", "nu", "init_scale", "bias_regularization"],
)
def test_a_parameter_that_is_no_number_of_its_range_is_refused_by_name(name: str, value: float) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=name):
        replace(EXPLICIT, **changed)
