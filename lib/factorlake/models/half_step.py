"""One half step over one block: what every plan runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import block_gram
from factorlake.kernels.half_step import RowSolver, segment_sums, solve_block
from factorlake.kernels.objective import ridge_loss
from factorlake.kernels.observations import LongSums, long_sums
from factorlake.kernels.row_solvers import SEGMENT
from factorlake.types import FloatMatrix, FloatVector, RatingBlock, Side

from .centre import centre_of_rows, sums_around, targets_around
from .parameters import AlsParameters
from .weighting import confidence_and_target, counts_of_rows, ridge_weights


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
    base_matrix: NDArray[np.float64] | None
    """(width, width) what the systems of all rows share beside it; with the solvers nonnegative and hals only."""
    solver: RowSolver
    steps: int
    """Conjugate-gradient steps, or sweeps of coordinate descent at most; the other solvers take none."""
    mean: float
    """μ, which the targets of a model with biases are less; else 0."""
    relaxation: float = 1.0
    """ω: a solved row x goes on to x₀ + ω (x − x₀), x₀ its present factors; only with the solver cg is it not 1."""
    turn: NDArray[np.float64] | None = None
    """(width, width) basis of the fixed rows, into which the solved side's present rows are yet to be turned."""
    prior_strength: NDArray[np.float64] | None = None
    """(width,) ρ, where rows have a prior mean. Their prior rows then stand behind their present ones, [x | p], or
    alone under the solver exact."""


@dataclass(frozen=True)
class Fixed:
    """The fixed side's rows as a block is solved against them: all of them, or those that the block sees."""

    factors: FloatMatrix
    """(n, width); its precision is the solve's."""
    offset: FloatVector | None
    """(n,) what each target is less: μ + the row's bias; None without biases."""


@dataclass(frozen=True)
class BlockSums:
    """What a half step tells of one block. Sums over blocks are taken in block order."""

    observed_loss: float
    """Of the state after under exact, nonnegative and hals, before under the other solvers."""
    residual_sum: float
    """Σ (t − prediction) of that same state; not taken under hals."""
    regularization_loss: float
    """Ridge of the solved rows."""
    gram: NDArray[np.float64] | None
    """(width, width) Gram matrix of the solved rows; None for the explicit objective, which needs none."""
    jitters: int
    seconds: float
    """Spent on the block by its task or thread."""


@dataclass(frozen=True)
class Segment:
    """Some of the observations of a row that is too long for one task, SEGMENT of them or what is left."""

    row: int
    """Within its block."""
    first: int
    """Observations of the block, first to last."""
    last: int

    @property
    def n_obs(self) -> int:
        return self.last - self.first


def segments_of(row_ptr: NDArray[np.int64]) -> list[Segment]:
    """Return the segments of a block's long rows, in order."""
    return [
        Segment(row, start, min(start + SEGMENT, int(row_ptr[row + 1])))
        for row in np.flatnonzero(np.diff(row_ptr) > SEGMENT).tolist()
        for start in range(int(row_ptr[row]), int(row_ptr[row + 1]), SEGMENT)
    ]


def sum_segment(
    task: HalfStepTask, block: RatingBlock, segment: Segment, neighbours: NDArray[np.int32], fixed: Fixed
) -> NDArray[np.float64]:
    """Return what a segment adds to its row's system, (width, width + 1), as the kernel ``segment_sums`` gives it.

    ``neighbours`` (n_obs,) are the segment's places in ``fixed``.
    """
    part = slice(segment.first, segment.last)
    values = None if block.values is None else block.values[part]
    confidence, target = confidence_and_target(values, task.parameters)
    return segment_sums(neighbours, confidence, target, fixed.factors, fixed.offset, task.solver)


def known_sums(segments: Sequence[Segment], sums: Sequence[NDArray[np.float64]]) -> LongSums:
    """Add up the sums of a block's segments, row by row, in their order."""
    rows, totals = [], []
    for row, parts in groupby(zip(segments, sums, strict=True), key=lambda pair: pair[0].row):
        total = np.zeros_like(sums[0])
        for _, part in parts:
            total += part
        rows.append(row)
        totals.append(total)
    return long_sums(rows, totals)


def prepare_fixed(parameters: AlsParameters, mean: float, rows: FloatMatrix) -> Fixed:
    """Return rows of the fixed side (n, width), in the basis of the half step, as row systems see them.

    With biases the fixed row becomes (f, 1), so that the solved row's bias is one more unknown; the fixed row's own
    bias and μ move into the target. Row by row: some of the rows give what all of them give.
    """
    if not parameters.has_biases:
        return Fixed(rows, None)
    factors = np.array(rows)
    factors[:, parameters.rank] = 1
    return Fixed(factors, mean + rows[:, parameters.rank].astype(np.float64))


def turn_rows(rows: FloatMatrix, basis: NDArray[np.float64]) -> FloatMatrix:
    """Return the rows of one logical block in another basis, rows·Q. Never of other sets of rows, since the results of
    BLAS depend on shapes."""
    turned: FloatMatrix = rows @ basis.astype(rows.dtype)
    return turned


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
    task: HalfStepTask, block: RatingBlock, fixed: Fixed, warm: FloatMatrix | None, known: LongSums | None = None
) -> tuple[FloatMatrix, BlockSums]:
    """Solve the rows of one block; return them (n_rows, width) and what the loop adds up. A pure function: every plan
    calls it with the same numbers and gets the same bits.

    Parameters
    ----------
    block : its neighbours are places in ``fixed``.
    warm : (n_rows, width) present factors of the block's own rows, before ``task.turn``; None where the solver is
        exact or product, or nonnegative or hals from zeros. With ``task.prior_strength`` (n_rows, 2 width), the prior
        rows behind them, or the prior rows alone. A row without observations is its prior row.
    known : sums of the block's long rows, where its segments were summed beforehand; else they are summed here.

    The caller limits BLAS to one thread (``single_threaded_blas``).

    Raises
    ------
    NumericalError : a row cannot be solved, or its factors are not finite; names the row.
    """
    began = time.perf_counter()
    parameters = task.parameters
    confidence, target = confidence_and_target(block.values, parameters)
    weights = ridge_weights(counts_of_rows(block, parameters), task.n_other, parameters)
    ridge = parameters.ridge_of(task.side) * weights
    own = [] if warm is None else np.split(warm, warm.shape[1] // parameters.width, axis=1)
    if task.turn is not None:
        own = [turn_rows(rows, task.turn) for rows in own]
    strength = task.prior_strength
    prior = own.pop() if strength is not None else None
    warm = own[0] if own else None
    centre, base_diagonal = None, task.base_diagonal
    if prior is not None and strength is not None:
        centre = centre_of_rows(prior, strength, ridge, ridge_mask(parameters), base_diagonal)
        base_diagonal = base_diagonal + strength
        if known is None:
            # As plans sum them that sum them beforehand, to the same bits.
            segments = segments_of(block.row_ptr)
            parts = [block.neighbours[one.first : one.last] for one in segments]
            each = [sum_segment(task, block, one, part, fixed) for one, part in zip(segments, parts, strict=True)]
            known = known_sums(segments, each)
        known = sums_around(known, centre)
        target = targets_around(target, block.row_ptr, block.neighbours, fixed.factors, centre)
        warm = None if warm is None else (warm - centre).astype(warm.dtype)
    solved = solve_block(
        row_ptr=block.row_ptr,
        neighbours=block.neighbours,
        confidence=confidence,
        target=target,
        factors=fixed.factors,
        warm=warm,
        base_diagonal=base_diagonal,
        base_matrix=task.base_matrix,
        ridge=ridge,
        mask=ridge_mask(parameters),
        solver=task.solver,
        steps=task.steps,
        offset=fixed.offset,
        first_row=block.first_row,
        known=known,
    )
    factors = solved.factors
    if warm is not None and task.relaxation != 1:
        factors = factors + factors.dtype.type(task.relaxation - 1) * (factors - warm)
    ridge_part = 0.0
    if prior is not None and centre is not None and strength is not None:
        factors = (factors + centre).astype(factors.dtype)
        silent = np.diff(block.row_ptr) == 0
        factors[silent] = prior[silent]
        ridge_part += float(np.sum(strength * np.sum((factors - prior).astype(np.float64) ** 2, axis=0)))
    return factors, BlockSums(
        observed_loss=solved.observed_loss,
        residual_sum=solved.residual_sum,
        regularization_loss=ridge_part + regularization_loss(factors, ridge, parameters),
        gram=None if parameters.pair_weight is None else block_gram(factors, block.first_row),
        jitters=solved.jitters,
        seconds=time.perf_counter() - began,
    )
