"""Where a non-negative factorization starts: at the non-negative parts of the leading singular vectors.

Random magnitudes end in one local minimum or another, of matrices of words up to 2 % above the lowest known; from here
it is the same within a few parts in a thousand for any seed, after fewer epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import eigenbasis
from factorlake.kernels.initial import initial_factors
from factorlake.types import FloatMatrix, Side

from .half_step import HalfStepTask, turn_rows
from .parameters import AlsParameters
from .plan import Plan, R
from .problem import RowBlock
from .state import solved_state

OVERSAMPLING = 10
"""Directions beside those that are asked for: the more, the fewer rounds make the latter exact."""
ROUNDS = 4
"""Of products with the matrix and its transpose. One more changes nothing that training would notice."""
LEAST_EIGENVALUE = 1e-12
"""Directions whose share of the largest eigenvalue is less are rounding noise of float32 rows, and left at zero."""


def nonnegative_start(plan: Plan[R], parameters: AlsParameters) -> tuple[R, R]:
    """Return (user rows, item rows), each (n, rank), that R ≈ XYᵀ is trained from: NNDSVDa.

    Of each pair of leading singular vectors u, v the positive parts or the negative ones are taken, whichever have the
    larger product of norms m, both of norm √(σ m). Zeros become the mean of all cells, since coordinate descent never
    leaves a factor that is zero on both sides. The vectors come from subspace iteration on rank + OVERSAMPLING draws by
    (seed, hash of the item's id).

    Raises
    ------
    NumericalError : ratings whose products are not finite; names the row.

    Sources: Boutsidis and Gallopoulos, Pattern Recognition 41(4), 2008; Halko, Martinsson and Tropp, SIAM Review 53(2),
    2011, algorithm 4.4.
    """
    wide, rank = replace(parameters, rank=parameters.rank + OVERSAMPLING), parameters.rank
    dtype = np.float64 if parameters.double_precision else np.float32

    def draw(block: RowBlock) -> tuple[FloatMatrix, None]:
        return initial_factors(block.hashes, wide.rank, wide.seed, 1.0).astype(dtype), None

    items, _ = plan.map_rows("item", draw)
    for _ in range(ROUNDS):
        users, _, _ = _orthonormal_product(plan, "user", items, wide)
        items, turn, singular_values = _orthonormal_product(plan, "item", users, wide)

    def leading(turn: NDArray[np.float64] | None, rows: FloatMatrix) -> tuple[FloatMatrix, NDArray[np.float64]]:
        kept = np.ascontiguousarray(rows[:, :rank] if turn is None else turn_rows(rows, turn[:, :rank]))
        return kept, np.array([np.sum(np.square(part), axis=0, dtype=np.float64) for part in _signed_parts(kept)])

    users, of_users = plan.map_rows("user", lambda _, rows: leading(turn, rows), users)
    items, of_items = plan.map_rows("item", lambda _, rows: leading(None, rows), items)
    norms = np.sqrt(_in_order(of_users)), np.sqrt(_in_order(of_items))
    products = norms[0] * norms[1]
    sign = (products[1] > products[0]).astype(np.int64)
    columns = np.arange(rank)
    root = np.sqrt(singular_values[:rank] * products[sign, columns])
    problem = plan.problem
    mean = problem.rating_sum / (problem.n_users * problem.n_items)

    def parts(scale: NDArray[np.float64], rows: FloatMatrix) -> tuple[FloatMatrix, None]:
        positive, negative = _signed_parts(rows)
        own = np.where(sign == 0, positive, negative) * scale
        return np.where(own > 0, own, mean).astype(dtype), None

    scales = [np.divide(root, norm[sign, columns], out=np.zeros(rank), where=norm[sign, columns] > 0) for norm in norms]
    users, _ = plan.map_rows("user", lambda _, rows: parts(scales[0], rows), users)
    items, _ = plan.map_rows("item", lambda _, rows: parts(scales[1], rows), items)
    return users, items


def _orthonormal_product(
    plan: Plan[R], side: Side, fixed: R, parameters: AlsParameters
) -> tuple[R, NDArray[np.float64], NDArray[np.float64]]:
    """Return the product P of the matrix with the other side's rows as P Q Λ^−½, with orthonormal columns, Q, and the
    singular values of P, descending."""
    width = parameters.width
    task = HalfStepTask(
        side=side,
        parameters=parameters,
        n_other=plan.problem.n_rows("item" if side == "user" else "user"),
        base_diagonal=np.zeros(width),
        base_matrix=None,
        solver="product",
        steps=0,
        mean=0.0,
    )
    rows, sums = plan.half_step(task, fixed, None)
    basis, eigenvalues = eigenbasis(solved_state(rows, sums, width).gram)
    kept = eigenvalues > LEAST_EIGENVALUE * eigenvalues[0]
    scale = np.divide(1.0, np.sqrt(eigenvalues), out=np.zeros(width), where=kept)
    turned, _ = plan.map_rows(side, lambda _, rows: (turn_rows(rows, basis * scale), None), rows)
    return turned, basis, np.sqrt(eigenvalues) * kept


def _signed_parts(rows: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """Return the positive and the negative parts of rows, both as magnitudes."""
    return np.maximum(rows, 0), np.maximum(-rows, 0)


def _in_order(of_blocks: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total = np.zeros_like(of_blocks[0])
    for one in of_blocks:
        total += one
    return total
