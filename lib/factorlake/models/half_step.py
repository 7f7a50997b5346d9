"""One half step over the blocks of one side: what every plan runs, and the plan of one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import block_gram
from factorlake.kernels.half_step import RowSolver, solve_block
from factorlake.kernels.objective import ridge_loss
from factorlake.types import FloatMatrix, FloatVector, RatingBlock, Side

from .parameters import AlsParameters
from .weighting import confidence_and_target, ridge_counts, ridge_weights


@dataclass(frozen=True)
class HalfStepTask:
    """Everything a half step needs beside the blocks and the factors. Small; travels with each task."""

    side: Side
    """The side that is solved."""
    parameters: AlsParameters
    n_other: int
    """Rows of the fixed side in training, for the ridge weights."""
    base_diagonal: NDArray[np.float64]
    """(width,) the part of D that all rows share."""
    solver: RowSolver
    steps: int
    offset: FloatVector | None
    """(rows of the fixed side,) μ + the other side's bias, or None."""


@dataclass(frozen=True)
class BlockResult:
    """What a half step gives back for one block. Sums over blocks are taken in block order."""

    factors: FloatMatrix
    """(n_rows, width)."""
    observed_loss: float
    """Of the state before under cg and residual, after under exact."""
    residual_sum: float
    """Σ (t − prediction) of that same state."""
    regularization_loss: float
    """Ridge of ``factors``."""
    gram: NDArray[np.float64] | None
    """(width, width) Gram matrix of ``factors``; None for the explicit objective, which needs none."""
    jitters: int


HalfStep = Callable[[HalfStepTask, FloatMatrix, FloatMatrix | None], Sequence[BlockResult]]
"""A plan: (task, fixed side's factors, solved side's present factors or None) → results in block order."""


def ridge_mask(parameters: AlsParameters) -> NDArray[np.float64]:
    """Return (width,): 1 where the row's own ridge λw applies, 0 for the bias."""
    mask = np.ones(parameters.width)
    mask[parameters.rank :] = 0.0
    return mask


def regularization_loss(factors: FloatMatrix, ridge: FloatVector, parameters: AlsParameters) -> float:
    """Return Σ_r ridge_r |x_r|² + λ_b Σ_r b_r² of the rows (x, b) of ``factors`` (n_rows, width)."""
    loss = ridge_loss(factors[:, : parameters.rank], ridge)
    if parameters.has_biases:
        loss += ridge_loss(factors[:, parameters.rank :], parameters.bias_regularization)
    return loss


def solve_one_block(
    task: HalfStepTask, block: RatingBlock, fixed: FloatMatrix, warm: FloatMatrix | None
) -> BlockResult:
    """Solve the rows of one block. A pure function: every plan calls it with the same arrays and gets the
    same bits.

    Parameters
    ----------
    fixed : (rows of the other side, width), already rotated or augmented; its precision is the solve's.
    warm : (n_rows, width) present factors of the block's own rows; None where the solver is exact.

    The caller limits BLAS to one thread (``single_threaded_blas``).

    Raises
    ------
    NumericalError : a row cannot be solved, or its factors are not finite; names the row.
    """
    parameters = task.parameters
    confidence, target = confidence_and_target(block.values, parameters)
    weights = ridge_weights(ridge_counts(block, parameters), task.n_other, parameters)
    ridge = parameters.regularization * weights
    solved = solve_block(
        row_ptr=block.row_ptr,
        neighbours=block.neighbours,
        confidence=confidence,
        target=target,
        factors=fixed,
        warm=warm,
        base_diagonal=task.base_diagonal,
        ridge=ridge,
        mask=ridge_mask(parameters),
        solver=task.solver,
        steps=task.steps,
        offset=task.offset,
        first_row=block.first_row,
    )
    return BlockResult(
        factors=solved.factors,
        observed_loss=solved.observed_loss,
        residual_sum=solved.residual_sum,
        regularization_loss=regularization_loss(solved.factors, ridge, parameters),
        gram=block_gram(solved.factors, block.first_row) if parameters.objective == "implicit" else None,
        jitters=solved.jitters,
    )


class LocalHalfStep:
    """The plan of one machine: blocks in memory, one thread per block at a time.

    Use as a context manager, so that the threads end with the training.
    """

    def __init__(self, user_blocks: Sequence[RatingBlock], item_blocks: Sequence[RatingBlock], threads: int = 1):
        self._blocks: dict[Side, Sequence[RatingBlock]] = {"user": user_blocks, "item": item_blocks}
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="half-step")

    def __call__(self, task: HalfStepTask, fixed: FloatMatrix, warm: FloatMatrix | None) -> Sequence[BlockResult]:
        blocks = self._blocks[task.side]

        def solve(position: int) -> BlockResult:
            block = blocks[position]
            own = None if warm is None else warm[block.first_row : block.first_row + block.n_rows]
            return solve_one_block(task, block, fixed, own)

        # The largest blocks first, so that no thread starts one when the others are done.
        order = sorted(range(len(blocks)), key=lambda position: -blocks[position].n_obs)
        running = {position: self._pool.submit(solve, position) for position in order}
        return [running[position].result() for position in range(len(blocks))]

    def __enter__(self) -> LocalHalfStep:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
