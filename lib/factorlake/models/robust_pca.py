"""Robust principal component analysis: D = L + S, L of low rank and S sparse, of a matrix of many rows.

Principal component pursuit, min ‖L‖_* + λ‖S‖₁ with L + S = D, by the inexact augmented Lagrangian method: with
multipliers Y and a penalty μ that grows,

    L ← the singular values of M = D − S + Y/μ less 1/μ,   S ← shrink(D − L + Y/μ, λ/μ),   Y ← Y + μ(D − L − S).

S and Y/μ are two halves of W = D − L + Y/μ (``kernels.shrinkage``), and L is kept as its factors, so beside D one
matrix is held. An iteration is two passes over both: one makes the product of M and orthonormal directions, whose small
Gram matrix gives the singular values and L; the other makes the new W and, from the M that follows, the directions of
the next iteration. These are the range of MᵀMΩ, where Ω holds the last right singular vectors and random ones, so
that the search goes on where it stood. The first pass also tells how far the vectors are from being singular vectors
of M, and where that could be felt in L it is run again, from MᵀM of what it found. Where the directions would be many
of all there are, the eigenvectors of MᵀM take their place.

Sources: Candès, Li, Ma, Wright, J. ACM 58 (2011); Lin, Chen, Ma, arXiv 1009.5055 (2010), algorithm 5 and section 4 for
μ and the prediction of the rank; Halko, Martinsson, Tropp, SIAM Review 53 (2011), section 4.5.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import issparse

from factorlake.errors import ConfigError
from factorlake.kernels.gram import column_signs
from factorlake.kernels.row_products import MatrixRows, check_shape, dense, normal_product, squared_norm
from factorlake.kernels.shrinkage import ABSOLUTE, NONZEROS, RESIDUAL, renew, shrink, unexplained
from factorlake.types import FloatMatrix

from .row_plan import H, RowPlan, T
from .threads import single_threaded_blas

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Stopped = Literal["tolerance", "rounding", "iterations"]

FIRST_PENALTY = 1.25
"""μ at first, times ‖D‖₂."""
LARGEST_PENALTY = 1e7
"""μ at most, in units of μ at first."""
FIRST_WIDTH = 10
"""Singular values looked for in the first iteration."""
WIDTH_STEP = 0.05
"""Share of the columns by which more are looked for where all that were found were above 1/μ."""
WHOLE_SHARE = 10
"""MᵀM is formed where as many directions as a WHOLE_SHARE-th of the columns are looked for: products with fewer cost
less. Both ways give the same L within the tolerance."""
MOST_WHOLE = 1024
"""Columns up to which MᵀM may be formed: 8 MiB for each block."""
FELT = 0.02
"""Vectors are refined while L may be wrong by more than this share of ‖D − L − S‖_F of the last iteration."""
MOST_REFINEMENTS = 2
"""Further passes of one iteration: what is left then is taken up by the next."""
PATIENCE, PROGRESS = 10, 0.9
"""Where μ has come to its end, rounding is all that is left after PATIENCE iterations in which the residual did not
fall to less than PROGRESS of its least."""
TILE_CELLS = 1 << 17
"""Of rows worked on at once: their float64 copy takes 1 MiB of cache."""
FEWEST_ROWS = 32
"""Of a tile: products of fewer rows are slow."""
NORM_PRECISION = 0.02
"""Power iterations for ‖D‖₂, which only scales μ, end where one adds no more than this share."""


@dataclass(frozen=True)
class RobustPcaParameters:
    """Weight of the sparse part, precision and schedule of robust PCA."""

    sparsity: float | None = None
    """λ; None: 1/√max(m, n)."""
    tolerance: float = 1e-7
    """‖D − L − S‖_F / ‖D‖_F at which it ends."""
    max_iterations: int = 200
    growth: float = 1.5
    """ρ: μ grows by it from one iteration to the next. With less the answer is closer to the optimum, and takes
    longer."""
    oversampling: int = 5
    """Random directions beside those that are looked for."""
    seed: int = 7

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 < self.sparsity < math.inf:
            raise ConfigError(f"sparsity must be greater than 0, got {self.sparsity}; leave it out for 1/√max(m, n)")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance must lie between 0 and 1, got {self.tolerance}")
        if not 1 < self.growth < math.inf:
            raise ConfigError(f"growth must be greater than 1, got {self.growth}")
        for name, least in {"max_iterations": 1, "oversampling": 0, "seed": 0}.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class RobustPcaIteration:
    """One row of the trace: the state after an iteration."""

    iteration: int
    """From 1."""
    residual: float
    """‖D − L − S‖_F / ‖D‖_F."""
    rank: int
    """Of L."""
    nonzeros: int
    """Of S."""
    objective: float
    """‖L‖_* + λ‖S‖₁."""
    passes: int
    """Over the matrix."""
    seconds: float


@dataclass(frozen=True)
class Separation:
    """Makes rows of L and S from what is held of them. Small, and independent of where rows are held."""

    right: Matrix
    """(n_columns, rank), orthonormal."""
    threshold: float
    """t, of S = shrink(W, t)."""
    dtype: DTypeLike
    """Of the matrix."""

    def low_rank(self, left: FloatMatrix) -> FloatMatrix:
        """Return rows of L from rows (n, rank) of ``RobustPca.left``."""
        return np.asarray(left @ self.right.T, dtype=self.dtype)

    def sparse(self, held: FloatMatrix) -> FloatMatrix:
        """Return rows of S from rows (n, n_columns) of ``RobustPca.held``. What is not in its support is exactly 0."""
        return shrink(held, self.threshold)


@dataclass(frozen=True)
class RobustPca(Generic[H]):
    """D ≈ L + S. L = UΣVᵀ; signs are fixed: the entry of largest magnitude of each right vector is positive."""

    left: H
    """UΣ (n_rows, rank) float64, held as rows."""
    singular_values: Vector
    """(rank,) of L, descending, all positive."""
    held: H
    """W (n_rows, n_columns) in the matrix's precision, held as rows: S and the multipliers in one."""
    separation: Separation
    """Makes rows of L and S; see also ``low_rank_rows`` and ``sparse_rows``."""
    sparsity: float
    """λ."""
    nonzeros: int
    """Of S."""
    residual: float
    """‖D − L − S‖_F / ‖D‖_F; 0 of a zero matrix."""
    stopped: Stopped
    """By what it ended: the tolerance was reached; the precision of the matrix's numbers allows no less (see
    ``least_tolerance``); or iterations ran out."""
    trace: tuple[RobustPcaIteration, ...]

    @property
    def rank(self) -> int:
        return len(self.singular_values)

    @property
    def right(self) -> Matrix:
        """V (n_columns, rank)."""
        return self.separation.right

    @property
    def iterations(self) -> int:
        return len(self.trace)

    @property
    def converged(self) -> bool:
        return self.stopped == "tolerance"


def least_tolerance(dtype: DTypeLike) -> float:
    """Return the least ‖D − L − S‖_F / ‖D‖_F worth asking for: the unit of rounding of the matrix's numbers, 6.0e-8 of
    float32 and 1.1e-16 of float64. What is below it in D is not data but rounding."""
    return float(np.finfo(dtype).eps) / 2


def low_rank_rows(plan: RowPlan[H], found: RobustPca[H]) -> H:
    """Return L (n_rows, n_columns) in the matrix's precision, held as rows."""
    separation = found.separation

    def make(first_row: int, left: FloatMatrix) -> tuple[FloatMatrix, None]:
        return separation.low_rank(left), None

    with single_threaded_blas():
        return plan.map_rows(make, found.left)[0]


def sparse_rows(plan: RowPlan[H], found: RobustPca[H]) -> H:
    """Return S (n_rows, n_columns) in the matrix's precision, held as rows."""
    separation = found.separation

    def make(first_row: int, held: FloatMatrix) -> tuple[FloatMatrix, None]:
        return separation.sparse(held), None

    return plan.map_rows(make, found.held)[0]


def robust_pca(
    plan: RowPlan[H],
    matrix: H,
    n_columns: int,
    parameters: RobustPcaParameters | None = None,
    on_iteration: Callable[[RobustPcaIteration], None] | None = None,
) -> RobustPca[H]:
    """Separate a matrix whose rows ``plan`` holds into one of low rank and a sparse one.

    Numbers are equal bit for bit however many threads or tasks the plan has. The driver holds some (n_columns, width)
    arrays for each block, width being a little more than the rank, or one (n_columns, n_columns) array for each block
    where the rank is more than a tenth of the columns. Where the matrix is zero, or has no rows or columns, L and S
    are zero, found in no iterations.

    Parameters
    ----------
    matrix : D, rows of float32 or float64, dense or sparse. Elementwise arithmetic, L and sums are float64; what is
        held between passes, and products that only seek directions, have the matrix's precision.
    on_iteration : told after each iteration.

    Raises
    ------
    ConfigError : rows are not what ``n_columns`` says.
    NumericalError : a number of the matrix is NaN or infinite; names the first bad row.
    """
    with single_threaded_blas():
        return _Run(plan, matrix, n_columns, parameters or RobustPcaParameters(), on_iteration).separate()


@dataclass(frozen=True)
class _State(Generic[H]):
    """W, and how M follows from it (``kernels.shrinkage.unexplained``)."""

    held: H
    threshold: float
    ratio: float


@dataclass(frozen=True)
class _Found(Generic[H]):
    """Directions Q (n_columns, width), and what M makes of them."""

    product: H
    """C = MQ, held as rows."""
    turn: Matrix
    """B (width, width), orthogonal: the columns of CB are singular values times left singular vectors."""
    singular_values: Vector
    """(width,), descending."""
    right: Matrix
    """QB."""

    def above(self, level: float) -> int:
        """Return how many singular values are greater than a level."""
        return int(np.sum(self.singular_values > level))

    def lowered(self, level: float, rank: int) -> Matrix:
        """Return T (width, rank): the columns of CT are left singular vectors times singular values less ``level``."""
        return self.turn[:, :rank] * (1.0 - level / self.singular_values[:rank])

    def error(self, images: Matrix, level: float) -> float:
        """Return by how much, about, L may be wrong, from how far ``images``, MᵀCB, is from σ²v for right vectors v.

        A vector off by e turns its part of L by about e/σ². A singular value at or below ``level`` that may be above
        it, for some σ² lies within e of what was found, adds what it may be above.
        """
        values = self.singular_values
        off = np.linalg.norm(images - self.right * values**2, axis=0)
        rank = self.above(level)
        turned = (values[:rank] - level) * off[:rank] / values[:rank] ** 2
        missed = np.maximum(np.sqrt(values[rank:] ** 2 + off[rank:]) - level, 0.0)
        return math.hypot(float(np.linalg.norm(turned)), float(np.linalg.norm(missed)))


@dataclass(frozen=True)
class _Sizes:
    """What the schedule starts from."""

    norm: float
    """‖D‖_F."""
    largest_singular_value: float
    """‖D‖₂, or a few per cent less."""
    largest_magnitude: float
    dtype: DTypeLike


class _Run(Generic[H]):
    """One separation on its way."""

    def __init__(
        self,
        plan: RowPlan[H],
        matrix: H,
        n_columns: int,
        parameters: RobustPcaParameters,
        on_iteration: Callable[[RobustPcaIteration], None] | None,
    ) -> None:
        self.plan, self.matrix, self.n_columns, self.parameters = plan, matrix, n_columns, parameters
        self.on_iteration = on_iteration
        self.n_rows = int(plan.block_ptr[-1])
        self.sparsity = parameters.sparsity or 1.0 / math.sqrt(max(self.n_rows, n_columns, 1))
        self.trace: list[RobustPcaIteration] = []
        self.passes = 0
        """Of the present iteration."""
        self.sought = FIRST_WIDTH
        """Singular values that are looked for."""
        self.right: Matrix = np.empty((n_columns, 0))
        """Right singular vectors found last."""

    def separate(self) -> RobustPca[H]:
        began = time.perf_counter()
        sizes = self._measure()
        if not sizes.norm:
            return self._nothing(sizes.dtype)
        penalty = FIRST_PENALTY / sizes.largest_singular_value
        largest_penalty = LARGEST_PENALTY * penalty
        # The multipliers start at D over what brings it into the dual ball: Y/μ is a multiple of D, and S is zero.
        into_ball = max(sizes.largest_singular_value, sizes.largest_magnitude / self.sparsity)
        state = _State(self.matrix, math.inf, 1.0 / (into_ball * penalty))
        directions = self._directions(1)
        images = self._images(state, directions)
        residual, best, best_at = 1.0, math.inf, 0
        while True:
            number, level = len(self.trace) + 1, 1.0 / penalty
            found = self._decompose(state, directions is None, images, level, FELT * residual * sizes.norm)
            rank = found.above(level)
            self._learn(found, rank, directions)
            directions = self._directions(number + 1)
            next_penalty = min(penalty * self.parameters.growth, largest_penalty)
            state, images, sums = self._renew(
                state, found, level, self.sparsity / penalty, penalty / next_penalty, directions, sizes.dtype
            )
            residual = math.sqrt(sums[RESIDUAL]) / sizes.norm
            nuclear = float(np.sum(found.singular_values[:rank] - level))
            objective = nuclear + self.sparsity * float(sums[ABSOLUTE])
            nonzeros = int(sums[NONZEROS])
            seconds = time.perf_counter() - began
            self._passed(RobustPcaIteration(number, residual, rank, nonzeros, objective, self.passes, seconds))
            began = time.perf_counter()
            # While μ grows the residual falls sooner or later.
            if residual < PROGRESS * best or penalty < largest_penalty:
                best, best_at = residual, number
            stopped = self._stopped(residual, least_tolerance(sizes.dtype), number - best_at)
            if stopped is not None:
                return self._result(found, level, state, stopped, sizes.dtype)
            penalty = next_penalty

    def _stopped(self, residual: float, least: float, idle: int) -> Stopped | None:
        if residual <= self.parameters.tolerance:
            return "tolerance"
        if residual <= least or idle >= PATIENCE:
            return "rounding"
        return "iterations" if len(self.trace) >= self.parameters.max_iterations else None

    def _passed(self, row: RobustPcaIteration) -> None:
        self.trace.append(row)
        self.passes = 0
        if self.on_iteration is not None:
            self.on_iteration(row)

    def _measure(self) -> _Sizes:
        """Return norms of D, in a few passes. ‖D‖₂ comes from power iterations and is exact to about a per cent, which
        is enough for where μ starts."""

        n_columns = self.n_columns

        def measure(first_row: int, rows: MatrixRows) -> tuple[float, float, DTypeLike]:
            check_shape(rows, n_columns)
            square = squared_norm(rows, first_row)
            values = np.asarray(rows.data if issparse(rows) else rows)
            largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
            return square, largest, rows.dtype

        told = self._looked(measure, self.matrix)
        norm = math.sqrt(math.fsum(square for square, _, _ in told))
        largest_magnitude, dtype = max(largest for _, largest, _ in told), told[0][2]
        if not norm:
            return _Sizes(0.0, 0.0, 0.0, dtype)
        basis, value = _orthonormal(self._fresh(0, FIRST_WIDTH + self.parameters.oversampling)), 0.0
        while True:
            images = self._normal_product(basis)
            projected = basis.T @ images
            squares = np.linalg.eigvalsh((projected + projected.T) / 2.0)
            before, value = value, math.sqrt(max(0.0, float(squares[-1])))
            basis = _orthonormal(images)
            if value <= before * (1.0 + NORM_PRECISION):
                self.right = basis
                return _Sizes(norm, value or norm, largest_magnitude, dtype)

    def _normal_product(self, basis: Matrix) -> Matrix:
        """Return DᵀDQ, in one pass."""

        def multiply(first_row: int, rows: MatrixRows) -> Matrix:
            return normal_product(rows, basis)

        return _added(self._looked(multiply, self.matrix))

    def _fresh(self, number: int, width: int) -> Matrix:
        """Return at most ``width`` random directions, of the iteration of a number."""
        random = np.random.default_rng([self.parameters.seed, number])
        return random.standard_normal((self.n_columns, min(width, self.n_rows, self.n_columns)))

    def _directions(self, number: int) -> Matrix | None:
        """Return Ω (n_columns, width) for the iteration of a number: right singular vectors found last, and random
        directions; None where MᵀM is cheaper."""
        fresh = self._fresh(number, self.sought + self.parameters.oversampling)
        width = fresh.shape[1]
        if self.n_columns <= MOST_WHOLE and width * WHOLE_SHARE >= self.n_columns:
            return None
        kept = self.right[:, : max(0, width - self.parameters.oversampling)]
        return np.concatenate([kept, fresh[:, kept.shape[1] :]], axis=1)

    def _learn(self, found: _Found[H], rank: int, directions: Matrix | None) -> None:
        """Predict how many singular values will be above 1/μ next, as Lin, Chen and Ma do."""
        self.right = found.right
        all_above = directions is not None and rank == directions.shape[1]
        self.sought = rank + (max(1, round(WIDTH_STEP * self.n_columns)) if all_above else 1)

    def _looked(self, work: Callable[..., T], *held: H) -> list[T]:
        self.passes += 1
        return self.plan.look(work, *held)

    def _images(self, state: _State[H], directions: Matrix | None) -> Matrix:
        """Return MᵀMΩ, or MᵀM where there is no Ω, in one pass."""
        return _added(self._looked(_Images(state.threshold, state.ratio, directions), self.matrix, state.held))

    def _decompose(self, state: _State[H], whole: bool, images: Matrix, level: float, allowed: float) -> _Found[H]:
        """Return M's singular values and vectors that are greater than ``level``, and a few more.

        Parameters
        ----------
        whole : whether ``images`` is MᵀM; else it is MᵀMΩ.
        allowed : by how much L may be wrong.
        """
        if whole:
            values, vectors = np.linalg.eigh(images)
            above = int(np.sum(values > level**2))
            basis = vectors[:, ::-1][:, : max(1, above)]
        else:
            basis = _orthonormal(images)
        for refinements in range(MOST_REFINEMENTS + 1):
            work = _Project(state.threshold, state.ratio, np.ascontiguousarray(basis), not whole)
            self.passes += 1
            product, told = self.plan.map_rows(work, self.matrix, state.held)
            squares, turn = np.linalg.eigh(_added([gram for gram, _ in told]))
            turn = np.ascontiguousarray(turn[:, ::-1])
            found = _Found(product, turn, np.sqrt(np.maximum(squares[::-1], 0.0)), basis @ turn)
            if whole:
                break
            images = _added([image for _, image in told]) @ turn
            if refinements == MOST_REFINEMENTS or found.error(images, level) <= allowed:
                break
            basis = _orthonormal(images)
        return found

    def _renew(
        self,
        state: _State[H],
        found: _Found[H],
        level: float,
        threshold: float,
        ratio: float,
        directions: Matrix | None,
        dtype: DTypeLike,
    ) -> tuple[_State[H], Matrix, Vector]:
        """Return the new W, the images of the M that follows from it, and the sums of ``kernels.shrinkage.renew``."""
        rank = found.above(level)
        low_rank = found.lowered(level, rank) @ found.right[:, :rank].T
        work = _Renew(_Images(threshold, ratio, directions), state.threshold, state.ratio, low_rank, dtype)
        self.passes += 1
        held, told = self.plan.map_rows(work, self.matrix, state.held, found.product)
        return _State(held, threshold, ratio), _added([one for one, _ in told]), _added([sums for _, sums in told])

    def _result(
        self, found: _Found[H], level: float, state: _State[H], stopped: Stopped, dtype: DTypeLike
    ) -> RobustPca[H]:
        rank = found.above(level)
        right = found.right[:, :rank]
        signs = column_signs(right)
        lowered = found.lowered(level, rank) * signs

        def turn(first_row: int, product: FloatMatrix) -> tuple[FloatMatrix, None]:
            return product @ lowered, None

        left, _ = self.plan.map_rows(turn, found.product)
        return RobustPca(
            left=left,
            singular_values=found.singular_values[:rank] - level,
            held=state.held,
            separation=Separation(right * signs, state.threshold, dtype),
            sparsity=self.sparsity,
            nonzeros=self.trace[-1].nonzeros,
            residual=self.trace[-1].residual,
            stopped=stopped,
            trace=tuple(self.trace),
        )

    def _nothing(self, dtype: DTypeLike) -> RobustPca[H]:
        """Return the separation of a zero matrix."""

        def none(first_row: int, rows: MatrixRows) -> tuple[FloatMatrix, None]:
            return np.zeros((rows.shape[0], 0)), None

        def zeros(first_row: int, rows: MatrixRows) -> tuple[FloatMatrix, None]:
            return np.zeros(rows.shape, dtype), None

        left, _ = self.plan.map_rows(none, self.matrix)
        held, _ = self.plan.map_rows(zeros, self.matrix)
        separation = Separation(np.zeros((self.n_columns, 0)), math.inf, dtype)
        return RobustPca(left, np.zeros(0), held, separation, self.sparsity, 0, 0.0, "tolerance", ())


@dataclass(frozen=True)
class _Images:
    """Tells MᵀMΩ of a block, or MᵀM where there is no Ω."""

    threshold: float
    ratio: float
    directions: Matrix | None

    def __call__(self, first_row: int, rows: MatrixRows, held: MatrixRows) -> Matrix:
        sum_of_tiles = self.start(rows)
        for tile in _tiles(rows):
            out = sum_of_tiles.room(tile)
            unexplained(dense(rows[tile]), dense(held[tile]), self.threshold, self.ratio, out)
            sum_of_tiles.add(out)
        return sum_of_tiles.total

    def start(self, rows: MatrixRows) -> _ImageSum:
        """Return an empty sum for a block. Directions are sought in the precision of the matrix."""
        return _ImageSum(rows, self.directions)


class _ImageSum:
    """MᵀMΩ or MᵀM, added tile by tile."""

    def __init__(self, rows: MatrixRows, directions: Matrix | None) -> None:
        n_columns = rows.shape[1]
        self.dtype = rows.dtype if directions is not None else np.float64
        self.directions = None if directions is None else np.ascontiguousarray(directions, self.dtype)
        self.total = np.zeros((n_columns, n_columns if directions is None else directions.shape[1]))
        self._image = np.empty(self.total.shape, self.dtype)
        self._room = np.empty((_tile_rows(rows), n_columns), self.dtype)

    def room(self, tile: slice) -> FloatMatrix:
        """Return where a tile of M is to be written."""
        return self._room[: tile.stop - tile.start]

    def add(self, tile: FloatMatrix) -> None:
        np.matmul(tile.T, tile if self.directions is None else tile @ self.directions, out=self._image)
        self.total += self._image


@dataclass(frozen=True)
class _Project:
    """Makes C = MQ of a block; tells CᵀC and MᵀC, which has no columns where it is not asked for."""

    threshold: float
    ratio: float
    basis: Matrix
    wants_images: bool

    def __call__(self, first_row: int, rows: MatrixRows, held: MatrixRows) -> tuple[Matrix, tuple[Matrix, Matrix]]:
        n_columns, width = self.basis.shape
        product, room = np.empty((rows.shape[0], width)), np.empty((_tile_rows(rows), n_columns))
        gram = np.zeros((width, width))
        images = np.zeros((n_columns, width if self.wants_images else 0))
        for tile in _tiles(rows):
            out, own = room[: tile.stop - tile.start], product[tile]
            unexplained(dense(rows[tile]), dense(held[tile]), self.threshold, self.ratio, out)
            np.matmul(out, self.basis, out=own)
            gram += own.T @ own
            if self.wants_images:
                images += out.T @ own
        return product, (gram, images)


@dataclass(frozen=True)
class _Renew:
    """Makes the new W of a block from L = C·low_rank; tells images and sums of the new state."""

    images: _Images
    """Of the new state."""
    threshold: float
    ratio: float
    """Of the present state."""
    low_rank: Matrix
    """(width, n_columns)."""
    dtype: DTypeLike

    def __call__(
        self, first_row: int, rows: MatrixRows, held: MatrixRows, product: FloatMatrix
    ) -> tuple[FloatMatrix, tuple[Matrix, Vector]]:
        new_held = np.empty(rows.shape, self.dtype)
        low_rank = np.empty((_tile_rows(rows), rows.shape[1]))
        sum_of_tiles, sums = self.images.start(rows), np.zeros(3)
        thresholds, ratios = (self.threshold, self.images.threshold), (self.ratio, self.images.ratio)
        for tile in _tiles(rows):
            out = sum_of_tiles.room(tile)
            low = low_rank[: len(out)]
            np.matmul(product[tile], self.low_rank, out=low)
            renew(dense(rows[tile]), dense(held[tile]), low, thresholds, ratios, new_held[tile], out, sums)
            sum_of_tiles.add(out)
        return new_held, (sum_of_tiles.total, sums)


def _tile_rows(rows: MatrixRows) -> int:
    return min(rows.shape[0], max(FEWEST_ROWS, TILE_CELLS // max(1, rows.shape[1])))


def _tiles(rows: MatrixRows) -> Iterator[slice]:
    n_rows, step = rows.shape[0], _tile_rows(rows)
    for first in range(0, n_rows, step):
        yield slice(first, min(first + step, n_rows))


def _added(told: Sequence[Matrix]) -> Matrix:
    """Return the sum over blocks, in block order."""
    total = np.zeros_like(told[0])
    for one in told:
        total += one
    return total


def _orthonormal(matrix: Matrix) -> Matrix:
    return np.linalg.qr(matrix)[0]
