"""How near a row's solution is to the true one, on 200 random small problems in either precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from factorlake.kernels.half_step import solve_block
from tests.kernels.test_half_step import block

PROBLEMS = 200


def problems() -> list[tuple[int, dict[str, Any]]]:
    """(number, arguments) of blocks with one row: ranks 1 to 40, up to three times as many observations, with and
    without a bias, ridges from 1e-4 to 10."""
    drawn = []
    for number in range(PROBLEMS):
        rng = np.random.default_rng(number)
        rank = int(rng.integers(1, 41))
        arguments = block([int(rng.integers(1, 3 * rank + 2))], rank, seed=number, biased=bool(number % 2))
        arguments["ridge"] = 10.0 ** rng.uniform(-4, 1, 1)
        drawn.append((number, arguments))
    return drawn


def dense_system(arguments: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A and b of the row's normal equations, by dense float64 products."""
    f = arguments["factors"][arguments["neighbours"]].astype(np.float64)
    c, t = arguments["confidence"].astype(np.float64), arguments["target"].astype(np.float64)
    if arguments["offset"] is not None:
        t = t - arguments["offset"][arguments["neighbours"]]
    diagonal = arguments["base_diagonal"] + arguments["ridge"][0] * arguments["mask"]
    return np.diag(diagonal) + f.T @ (f * c[:, None]), f.T @ (c * t)


def test_float64_solutions_are_within_1e_9_times_the_condition_number_of_a_dense_solve() -> None:
    for number, arguments in problems():
        matrix, right = dense_system(arguments)
        wanted = np.linalg.solve(matrix, right)
        got = solve_block(**arguments, solver="exact").factors[0]
        error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        assert error <= 1e-9 * np.linalg.cond(matrix), number


def test_float32_solutions_have_a_backward_error_of_at_most_1e_5() -> None:
    for number, arguments in problems():
        # What is rounded to float32 on the way in is part of the problem, not of the error.
        single = arguments | {
            name: arguments[name].astype(np.float32) for name in ("factors", "warm", "confidence", "target")
        }
        if single["offset"] is not None:
            single["offset"] = single["offset"].astype(np.float32)
        solved = solve_block(**single, solver="exact")
        matrix, right = dense_system(single)
        x = solved.factors[0].astype(np.float64)
        backward = np.linalg.norm(right - matrix @ x) / (
            np.linalg.norm(matrix, 2) * np.linalg.norm(x) + np.linalg.norm(right)
        )
        assert backward <= 1e-5, number
