"""Parameters of other implementations and papers: the same objective, the same rows, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.errors import ConfigError
from factorlake.models.fold_in import fold_in_rows, turned_items
from factorlake.models.mappings import (
    HuKorenParameters,
    IalsParameters,
    SparkParameters,
    from_hu_koren,
    from_ials,
    from_spark,
    to_hu_koren,
    to_ials,
    to_spark,
)
from factorlake.models.objective import objective_value
from factorlake.models.parameters import AlsParameters
from factorlake.models.systems import user_system
from factorlake.models.threads import single_threaded_blas
from tests.models.problems import Problem, small_problem
from tests.reference import papers

RANK = 4
Matrix = NDArray[np.float64]
# Both sums have some hundred terms, each known to 1e-16 of the whole.
SUMMED = 1e-12
# A row is rounded once to float32, to 6e-8 of its entries; the systems are well conditioned.
ROUNDED = 2e-6


def table_of(problem: Problem) -> Matrix:
    table = np.zeros((problem.n_users, problem.n_items))
    table[problem.users, problem.items] = 1.0 if problem.values is None else problem.values
    return table


def random_factors(problem: Problem, seed: int) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(problem.n_users, RANK)), rng.normal(size=(problem.n_items, RANK))


def constant_of(table: Matrix, alpha: float) -> float:
    """Σ_(r>0) (1 + 1/(αr)), by which the objective with α here is larger than the papers'."""
    return float((1 + 1 / (alpha * table[table > 0])).sum())


def folded(problem: Problem, y: Matrix, parameters: AlsParameters) -> NDArray[np.float32]:
    """Every user solved for the items ``y``, rounded to float32 as published items are."""
    published = y.astype(np.float32)
    with single_threaded_blas():
        wide = published.astype(np.float64)
        system = user_system(parameters, 0.0, wide.T @ wide, len(y))
        items = turned_items(system, published, None)
        solved = [fold_in_rows(b.row_ptr, b.neighbours, b.values, system, items) for b in problem.user_blocks]
    return np.concatenate([one.factors for one in solved])


HU_KOREN = HuKorenParameters(RANK, 0.7, 2.5)
IALS = [IalsParameters(RANK, 0.03, 0.2, nu) for nu in (0.0, 0.5, 1.0)]
SPARK = {
    "implicit": SparkParameters(RANK, 0.07, 2.5, True),
    "explicit": SparkParameters(RANK, 0.07),
}
Objective = Callable[[Matrix, Matrix, Matrix], float]
Row = Callable[[Matrix, Matrix], Matrix]
CASES: list[Any] = [
    pytest.param(
        from_hu_koren(**asdict(HU_KOREN)),
        rating,
        lambda r, x, y: papers.hu_koren_objective(r, x, y, 0.7, 2.5),
        lambda r_u, y: papers.hu_koren_user(r_u, y, 0.7, 2.5),
        id=f"Hu-Koren-Volinsky, {rating}",
    )
    for rating in ("one", "stars", "signed")
]
CASES += [
    pytest.param(
        from_ials(**asdict(one)),
        "one",
        lambda r, x, y, nu=one.nu: papers.ials_objective(r, x, y, 0.03, 0.2, nu),
        lambda r_u, y, nu=one.nu: papers.ials_user(r_u, y, 0.03, 0.2, nu),
        id=f"iALS, ν = {one.nu}",
    )
    for one in IALS
]
CASES += [
    pytest.param(
        from_spark(**asdict(SPARK["implicit" if alpha else "explicit"])),
        rating,
        lambda r, x, y, alpha=alpha: papers.spark_objective(r, x, y, 0.07, alpha),
        lambda r_u, y, alpha=alpha: papers.spark_user(r_u, y, 0.07, alpha),
        id=f"Spark, {'implicit' if alpha else 'explicit'}, {rating}",
    )
    for alpha in (2.5, None)
    for rating in ("one", "stars", "signed")
]


@pytest.mark.parametrize(("parameters", "rating", "objective", "row"), CASES)
def test_the_objective_is_that_of_the_paper_up_to_the_stated_constant(
    parameters: AlsParameters, rating: str, objective: Objective, row: Row
) -> None:
    problem = small_problem(rating, seed=3)
    table = table_of(problem)
    constant = 0.0 if parameters.alpha is None else constant_of(table, parameters.alpha)
    for seed in range(3):
        x, y = random_factors(problem, seed)
        got = objective_value(problem.user_blocks, problem.item_blocks, x, y, parameters)
        assert got == pytest.approx(objective(table, x, y) + constant, rel=SUMMED)


@pytest.mark.parametrize(("parameters", "rating", "objective", "row"), CASES)
def test_each_user_solved_here_is_the_papers_solution(
    parameters: AlsParameters, rating: str, objective: Objective, row: Row
) -> None:
    problem = small_problem(rating, seed=4)
    table = table_of(problem)
    y = random_factors(problem, 5)[1].astype(np.float32).astype(np.float64)
    got = folded(problem, y, parameters)
    for user in range(problem.n_users):
        wanted = row(table[user], y)
        assert np.abs(got[user] - wanted).max() <= ROUNDED * max(1.0, np.abs(wanted).max())


@pytest.mark.spark
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("implicit", [True, False])
def test_each_user_solved_here_for_sparks_items_is_sparks_user(
    spark: SparkSession, implicit: bool, nonnegative: bool
) -> None:
    from pyspark.ml.recommendation import ALS

    problem = small_problem("stars" if nonnegative else "signed", seed=6)
    assert problem.values is not None
    ratings = pd.DataFrame({"user": problem.users, "item": problem.items, "rating": problem.values})
    theirs = SparkParameters(3, 0.1, 1.5 if implicit else 1.0, implicit, nonnegative)
    model = ALS(
        rank=theirs.rank,
        regParam=theirs.reg_param,
        alpha=theirs.alpha,
        implicitPrefs=implicit,
        nonnegative=nonnegative,
        maxIter=12,
        seed=1,
        numUserBlocks=1,
        numItemBlocks=1,
    ).fit(spark.createDataFrame(ratings))
    users, items = (
        np.array([row["features"] for row in frame.orderBy("id").collect()], dtype=np.float64)
        for frame in (model.userFactors, model.itemFactors)
    )
    got = folded(problem, items, from_spark(**asdict(theirs)))
    # Spark sums each row's system in double and rounds the solution once, as is done here; its non-negative rows come
    # from an iteration that stops at a step of 1e-7 or so.
    assert np.abs(got - users).max() <= (1e-4 if nonnegative else ROUNDED) * np.abs(users).max()


@pytest.mark.parametrize(
    ("there", "back", "given"),
    [
        *((from_spark, to_spark, one) for one in SPARK.values()),
        (from_spark, to_spark, SparkParameters(9, 0.0, 3.0, True, True)),
        (from_spark, to_spark, SparkParameters(9, 0.5, nonnegative=True)),
        (from_hu_koren, to_hu_koren, HU_KOREN),
        *((from_ials, to_ials, one) for one in IALS),
    ],
)
def test_there_and_back_is_what_was_given(
    there: Callable[..., AlsParameters], back: Callable[[AlsParameters], Any], given: Any
) -> None:
    mapped = there(**asdict(given))
    assert back(mapped) == given
    # What is no part of the objective changes nothing.
    assert back(replace(mapped, epochs=3, seed=99, tolerance=None, cg_steps=4, init_scale=1.0)) == given


def test_where_every_rating_is_one_ials_without_an_offset_is_sparks_objective_in_other_units() -> None:
    """Ours at (X, Y) is α0/(1 + α0)² times theirs at √(1 + α0) (X, Y), and α0/(1 + α0) more for each rating."""
    problem, alpha0 = small_problem("one", seed=7), 0.3
    parameters = replace(from_ials(RANK, 0.05, alpha0), kappa=0.0)
    with pytest.raises(ConfigError, match="alpha is None"):
        to_spark(parameters)
    theirs = to_spark(parameters, all_ones=True)
    assert theirs.implicit
    x, y = random_factors(problem, 8)
    stretch = np.sqrt(1 + alpha0)
    wanted = papers.spark_objective(table_of(problem), stretch * x, stretch * y, theirs.reg_param, theirs.alpha)
    got = objective_value(problem.user_blocks, problem.item_blocks, x, y, parameters)
    constant = len(problem.users) * alpha0 / (1 + alpha0)
    assert got == pytest.approx(alpha0 / (1 + alpha0) ** 2 * wanted + constant, rel=SUMMED)
    # Nothing says how small all other scores should be: no α is large enough.
    with pytest.raises(ConfigError, match="alpha is None"):
        to_spark(replace(parameters, alpha0=0.0), all_ones=True)


def test_what_means_the_same_maps_to_the_same() -> None:
    plain = from_hu_koren(RANK, 0.7, 2.5)
    # κ counts for nothing where ν is 0, and a ridge of the items' own may be the users'.
    assert to_hu_koren(replace(plain, kappa=0.4, item_regularization=0.7)) == to_hu_koren(plain)
    modern = from_ials(RANK, 0.03, 0.2, 0.8)
    assert to_ials(replace(modern, kappa=None)) == to_ials(modern)
    # An explicit objective has neither α0 nor α.
    explicit = from_spark(RANK, 0.1)
    assert to_spark(replace(explicit, alpha0=0.3, kappa=None)) == to_spark(explicit)


@pytest.mark.parametrize(
    ("back", "start", "change", "named"),
    [
        (to_spark, from_spark(RANK, 0.1, 2.0, True), {"nu": 0.5}, "nu is 0.5"),
        (to_spark, from_spark(RANK, 0.1, 2.0, True), {"kappa": 0.5}, "kappa is 0.5"),
        (to_spark, from_spark(RANK, 0.1, 2.0, True), {"alpha0": 0.5}, "alpha0 is 0.5"),
        (to_spark, from_spark(RANK, 0.1, 2.0, True), {"alpha": None}, "alpha is None"),
        (to_spark, from_spark(RANK, 0.1, 2.0, True), {"item_regularization": 0.2}, "item_regularization is 0.2"),
        (to_spark, from_spark(RANK, 0.1), {"biases": True}, "biases is True"),
        (to_spark, from_spark(RANK, 0.1, nonnegative=True), {"objective": "frobenius"}, "objective is frobenius"),
        (to_hu_koren, from_hu_koren(RANK, 0.7, 2.5), {"nu": 1.0}, "nu is 1.0"),
        (to_hu_koren, from_hu_koren(RANK, 0.7, 2.5), {"alpha0": 0.1}, "alpha0 is 0.1"),
        (to_hu_koren, from_hu_koren(RANK, 0.7, 2.5), {"alpha": None}, "alpha is None"),
        (to_hu_koren, from_hu_koren(RANK, 0.7, 2.5), {"objective": "explicit"}, "objective is explicit"),
        (to_hu_koren, from_hu_koren(RANK, 0.7, 2.5), {"nonnegative": True}, "nonnegative is True"),
        (to_ials, from_ials(RANK, 0.03, 0.2, 0.8), {"kappa": 0.0}, "kappa is 0.0"),
        (to_ials, from_ials(RANK, 0.03, 0.2, 0.8), {"alpha": 2.0}, "alpha is 2.0"),
        (to_ials, from_ials(RANK, 0.03, 0.2, 0.8), {"item_regularization": 0.2}, "item_regularization is 0.2"),
        (to_ials, from_ials(RANK, 0.03, 0.2, 0.8), {"nonnegative": True}, "nonnegative is True"),
    ],
)
def test_a_parameter_without_counterpart_is_named(
    back: Callable[[AlsParameters], Any], start: AlsParameters, change: dict[str, Any], named: str
) -> None:
    assert back(start)
    with pytest.raises(ConfigError, match=named):
        back(replace(start, **change))


def test_an_alpha_of_zero_has_no_confidence_to_give() -> None:
    with pytest.raises(ConfigError, match="alpha is 0"):
        from_spark(RANK, 0.1, 0.0, True)
    # Explicit ratings have none either way.
    assert from_spark(RANK, 0.1, 0.0).alpha is None
