"""Truncated singular value decomposition A ≈ UΣVᵀ of a matrix of many rows, by randomized block Krylov iterations.

A Gaussian block is multiplied by AᵀA over and over, one pass over the matrix each time; the driver keeps the directions
found, K, and their images W = AᵀAK, which are (n_columns, few). The best directions within K are those of the
eigenvectors of KᵀW (Rayleigh and Ritz); what AᵀA makes of them beyond K is the next block. A last pass holds the
product of A and the directions as rows, whose QR decomposition (block by block, then of the blocks' R) and small SVD
give the answer.

Sources: Halko, Martinsson, Tropp, SIAM Review 53 (2011), sections 4.3, 4.4 and 5.1; Musco and Musco, NIPS 2015,
algorithm 2, for the Krylov space; Demmel, Grigori, Hoemmen, Langou, SIAM J. Sci. Comput. 34 (2012), for the QR
decomposition of a tall matrix.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.kernels.gram import column_signs
from factorlake.kernels.row_products import (
    MatrixRows,
    check_shape,
    dense,
    normal_product,
    residual_sums,
    row_product,
    squared_norm,
)
from factorlake.types import FloatMatrix

from .row_plan import H, RowPlan
from .threads import single_threaded_blas

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

FIRST_WIDTH = 32
"""Of the sketch where the energy decides about the rank."""
DROPPED = 1 / 16
"""A direction is not followed whose residual is shorter than this share of its error of rounding: that spreads over
many directions, and one holds the less of it."""
HIDDEN = 64
"""σ² below so many units of rounding of the largest one are hidden by it in products with a random block."""
SAFETY = 10.0
"""α in equation 4.3 of Halko, Martinsson and Tropp: a bound fails with probability α^−(number of probes)."""
_START, _GROWTH, _PROBES = 0, 1, 2
"""What Gaussian vectors are drawn for, beside the seed."""


@dataclass(frozen=True)
class SvdParameters:
    """What a truncated SVD is asked for: a rank, or the energy that decides about it."""

    rank: int | None = None
    energy: float | None = None
    """Share of ‖A‖_F² to reach, by the least rank that does."""
    oversampling: int = 10
    """Directions beside those asked for, which let those settle sooner."""
    power_iterations: int = 4
    """Most passes over the matrix before the last, counted from where the sketch is wide enough for the energy."""
    tolerance: float = 1e-4
    """Passes end where more of them are expected to take no more than this share off the squared error."""
    seed: int = 7
    probes: int = 10
    """Gaussian vectors of the bound on the error's spectral norm."""

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.energy is None):
            raise ConfigError(f"give a rank or an energy, one of the two, got {self.rank} and {self.energy}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"energy must be greater than 0 and at most 1, got {self.energy}")
        for name, least in {"rank": 1, "oversampling": 0, "power_iterations": 1, "tolerance": 0, "probes": 1}.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class SvdPass:
    """One pass over the matrix."""

    number: int
    """From 1."""
    step: Literal["power", "last", "error"]
    width: int
    """Columns that the matrix was multiplied by; 0 where it was only read."""
    energy: float
    """Share of ‖A‖_F² in the leading directions known after the pass: of the rank asked for, or of all as long as the
    energy asked for is not reached. From one power pass to the next it falls only with the rank, and by rounding."""
    seconds: float


@dataclass(frozen=True)
class ApproximationError:
    """How far A is from its approximation, E = A − UΣVᵀ."""

    relative: float
    """‖E‖_F / ‖A‖_F; 0 where A is zero."""
    spectral_bound: float
    """What ‖E‖₂ does not exceed."""
    failure_probability: float
    """With which the bound does not hold, over the draw of the probes."""


@dataclass(frozen=True)
class TruncatedSvd(Generic[H]):
    """A ≈ UΣVᵀ. Signs are fixed: the entry of largest magnitude of each right vector is positive."""

    left: H
    """U (n_rows, rank) in the matrix's precision, held as rows."""
    singular_values: Vector
    """(rank,), descending."""
    right: Matrix
    """V (n_columns, rank)."""
    squared_norm: float
    """‖A‖_F²."""
    error: ApproximationError | None
    """None where it was not asked for."""
    trace: tuple[SvdPass, ...]

    @property
    def rank(self) -> int:
        return len(self.singular_values)

    @property
    def energy(self) -> float:
        """Share of ‖A‖_F² in the singular values; 1 of a zero matrix."""
        return _share(float(np.sum(self.singular_values**2)), self.squared_norm)


def truncated_svd(
    plan: RowPlan[H],
    matrix: Any,
    n_columns: int,
    parameters: SvdParameters,
    on_pass: Callable[[SvdPass], None] | None = None,
    measure_error: bool = True,
) -> TruncatedSvd[H]:
    """Return the leading singular values and vectors of a matrix whose rows ``plan`` holds.

    Numbers are equal bit for bit however many threads or tasks the plan has. Where the sketch would span the rows or
    columns anyway the decomposition is exact. The driver holds a few (n_columns, width) arrays and a (width, width)
    array for each block, width being a few times the rank.

    Parameters
    ----------
    matrix : rows of float32 or float64 as the plan holds them, dense or sparse (CSR). Products are taken in that
        precision, sums over blocks and orthonormal bases in float64.
    on_pass : told after each pass.
    measure_error : whether one pass more computes the error from A − UΣVᵀ itself.

    Raises
    ------
    ConfigError : the rank is more than the matrix has rows or columns, or rows are not what ``n_columns`` says.
    NumericalError : a number of the matrix is NaN or infinite; names the first bad row.
    """
    with single_threaded_blas():
        run = _Run(plan, matrix, n_columns, parameters, on_pass)
        found = run.decompose()
        if not measure_error:
            return found
        began = time.perf_counter()
        error = approximation_error(
            plan, matrix, found.left, found.singular_values, found.right, found.squared_norm, parameters
        )
        run.passed("error", 0, found.energy, began)
        return replace(found, error=error, trace=tuple(run.trace))


def approximation_error(
    plan: RowPlan[H],
    matrix: Any,
    left: H,
    singular_values: Vector,
    right: FloatMatrix,
    norm_squared: float,
    parameters: SvdParameters,
) -> ApproximationError:
    """Return the error of A ≈ UΣVᵀ from the entries of A − UΣVᵀ, in one pass.

    The bound: with probability at least 1 − 10^−q, ‖B‖₂ ≤ 10 √(2/π) max_i ‖Bω_i‖ over q Gaussian vectors ω_i (Halko,
    Martinsson, Tropp 2011, equation 4.3). For B = E it would always be more than ‖E‖_F, which is known; for B = EᵀE, as
    easily had in one pass, ‖E‖₂² is bounded. The lesser of that bound's root and ‖E‖_F is returned.

    Parameters
    ----------
    left, singular_values, right : U (n_rows, rank), Σ (rank,), V (n_columns, rank).
    norm_squared : ‖A‖_F².
    parameters : the number of probes and their seed.
    """
    scaled = right * singular_values
    probes = _gaussian(parameters.seed, _PROBES, 0, (len(right), parameters.probes))

    def look(first_row: int, rows: MatrixRows, of_left: FloatMatrix) -> tuple[float, Vector]:
        return residual_sums(rows, of_left, scaled, probes)

    with single_threaded_blas():
        told = plan.look(look, matrix, left)
    squares, images = math.fsum(one for one, _ in told), np.zeros(probes.shape)
    for _, one in told:
        images += one
    longest = float(np.linalg.norm(images, axis=0).max())
    return ApproximationError(
        relative=math.sqrt(squares / norm_squared) if norm_squared else 0.0,
        spectral_bound=math.sqrt(min(SAFETY * math.sqrt(2 / math.pi) * longest, squares)),
        failure_probability=SAFETY**-parameters.probes,
    )


class _Known:
    """Orthonormal directions K (n_columns, size) that the matrix was multiplied by, and W = AᵀAK."""

    def __init__(self, n_columns: int) -> None:
        self.directions: Matrix = np.empty((n_columns, 0))
        self.images: Matrix = np.empty((n_columns, 0))

    @property
    def size(self) -> int:
        return self.directions.shape[1]

    def add(self, block: Matrix, images: Matrix) -> None:
        self.directions = np.concatenate([self.directions, block], axis=1)
        self.images = np.concatenate([self.images, images], axis=1)

    def ritz(self) -> tuple[Vector, Matrix]:
        """Return the eigenvalues of KᵀAᵀAK, descending, which are lower bounds of σ², and its eigenvectors."""
        projected = self.directions.T @ self.images
        values, vectors = np.linalg.eigh((projected + projected.T) / 2.0)
        return np.maximum(values[::-1], 0.0), vectors[:, ::-1]

    def beyond(self, candidates: Matrix, least: float) -> Matrix:
        """Return an orthonormal basis of what candidates span beyond K; parts no longer than ``least`` are none."""
        rest = self._without(self._without(candidates))
        basis, triangle, _ = scipy.linalg.qr(rest, mode="economic", pivoting=True)
        size = int(np.sum(np.abs(np.diagonal(triangle)) > least))
        size = min(size, len(self.directions) - self.size)
        # What was short before it was scaled to length 1 has kept much of K.
        return _orthonormal(self._without(basis[:, :size]))

    def _without(self, candidates: Matrix) -> Matrix:
        return candidates - self.directions @ (self.directions.T @ candidates)


class _Run(Generic[H]):
    """One decomposition on its way."""

    def __init__(
        self,
        plan: RowPlan[H],
        matrix: Any,
        n_columns: int,
        parameters: SvdParameters,
        on_pass: Callable[[SvdPass], None] | None,
    ) -> None:
        self.plan, self.matrix, self.n_columns, self.parameters = plan, matrix, n_columns, parameters
        self.on_pass = on_pass
        self.trace: list[SvdPass] = []
        self.n_rows = int(plan.block_ptr[-1])
        self.total: float | None = None
        """‖A‖_F², from the first pass on."""
        self.precision = float(np.finfo(np.float64).eps)
        """Unit of rounding of the matrix's numbers, from the first pass on."""
        smaller = min(self.n_rows, n_columns)
        if not smaller:
            raise ConfigError(f"a matrix of {self.n_rows} rows and {n_columns} columns has no singular values")
        if parameters.rank is not None and parameters.rank > smaller:
            raise ConfigError(
                f"rank {parameters.rank} is more than a matrix of {self.n_rows:,} × {n_columns:,} has; the largest is "
                f"{smaller}"
            )

    def passed(self, step: Literal["power", "last", "error"], width: int, energy: float, began: float) -> None:
        """Note a pass."""
        self.trace.append(SvdPass(len(self.trace) + 1, step, width, energy, time.perf_counter() - began))
        if self.on_pass is not None:
            self.on_pass(self.trace[-1])

    def decompose(self) -> TruncatedSvd[H]:
        basis = self._basis()
        began = time.perf_counter()
        held, triangles = self._hold_product(basis)
        tall, triangle = np.linalg.qr(np.concatenate(triangles))
        turned, values, turns = np.linalg.svd(triangle, full_matrices=False)
        total = self._total()
        rank = self.parameters.rank
        if rank is None:
            rank = self._rank_reaching(values**2) or max(1, int(np.sum(values > values[0] * self._noise())))
        right = turns[:rank].T if basis is None else basis @ turns[:rank].T
        signs = column_signs(right)
        parts = np.split(tall @ (turned[:, :rank] * signs), np.cumsum([len(one) for one in triangles])[:-1])
        small = dict(zip(self.plan.block_ptr[:-1].tolist(), parts, strict=True))

        def turn(first_row: int, of_block: FloatMatrix) -> tuple[FloatMatrix, None]:
            part = small[first_row].astype(of_block.dtype)
            return of_block[:, : len(part)] @ part, None

        left, _ = self.plan.map_rows(turn, held)
        squares = float(np.sum(values[:rank] ** 2))
        self.passed("last", triangle.shape[1], _share(squares, total), began)
        return TruncatedSvd(left, values[:rank].copy(), right * signs, total, None, tuple(self.trace))

    def _basis(self) -> Matrix | None:
        """Return orthonormal directions that hold the leading right singular vectors, a few more than those; None for
        all directions."""
        parameters, known = self.parameters, _Known(self.n_columns)
        smaller = min(self.n_rows, self.n_columns)
        width = (parameters.rank or FIRST_WIDTH) + parameters.oversampling
        if width >= smaller:
            return self._whole()
        block = _orthonormal(_gaussian(parameters.seed, _START, 0, (self.n_columns, width)))
        seen: list[Vector] = []
        rank, is_random = parameters.rank, True
        while True:
            began = time.perf_counter()
            known.add(block, self._images(block))
            values, vectors = known.ritz()
            before, rank = rank, parameters.rank or self._rank_reaching(values)
            self.passed("power", block.shape[1], _share(float(np.sum(values[:rank])), self._total()), began)
            noise, least = self.precision * values[0], DROPPED * self.precision
            if rank is None:
                if 2 * known.size > smaller:
                    return self._whole()
                width = known.size
                fresh = _gaussian(parameters.seed, _GROWTH, known.size, (self.n_columns, width))
                rest = known.beyond(self._residuals(known, values, vectors), least)[:, :width]
                grown = known.beyond(np.concatenate([rest, fresh[:, rest.shape[1] :]], axis=1), least)
                block, seen = grown, []
                continue
            seen.append(values)
            leading = min(rank + parameters.oversampling, known.size)
            if len(seen) == parameters.power_iterations or (before == rank and self._is_settled(seen, rank)):
                break
            if is_random and len(seen) == 1 and values[leading - 1] <= HIDDEN * noise:
                # Every column of the first images has its share of the largest σ², and of its rounding. Left out, those
                # do not hide the small ones: from now on each direction has columns of its own.
                block, known = _orthonormal(known.images @ vectors[:, :leading]), _Known(self.n_columns)
                is_random = False
                continue
            block = known.beyond(self._residuals(known, values, vectors[:, :leading]), least)
            if not block.shape[1]:
                break
        # One more multiplication by AᵀA, of which the result is known.
        above = int(np.sum(values[:leading] > noise))
        multiplied = known.images @ vectors[:, :above]
        if above == leading:
            return _orthonormal(multiplied)
        # Rounding hides which of the other directions are the better ones: the last pass takes all there are.
        return _orthonormal(np.concatenate([multiplied, known.directions], axis=1))

    def _residuals(self, known: _Known, values: Vector, vectors: Matrix) -> Matrix:
        """Return AᵀAx − θx of Ritz vectors x = Ky, over σ_1 √θ: what rounding makes of each is then alike."""
        residuals = known.images @ vectors - (known.directions @ vectors) * values[: vectors.shape[1]]
        largest = np.sqrt(values[0]) or 1.0
        return residuals / (largest * np.maximum(np.sqrt(values[: vectors.shape[1]]), self.precision * largest))

    def _is_settled(self, seen: list[Vector], rank: int) -> bool:
        """Whether further passes would gain little. Gains fall at least as a geometric series does."""
        captured = [0.0, *(float(np.sum(values[:rank])) for values in seen)]
        left, rounding = self._total() - captured[-1], self.precision * self._total()
        gains = [later - earlier for earlier, later in pairwise(captured)][-2:]
        if left <= rounding:
            return gains[-1] <= rounding
        if len(gains) < 2 or gains[1] >= gains[0]:
            return False
        ratio = max(gains[1], 0.0) / gains[0]
        return gains[1] * ratio / (1 - ratio) <= self.parameters.tolerance * left

    def _rank_reaching(self, squares: Vector) -> int | None:
        """Return the least number of leading σ² that reach the energy asked for; None where all do not."""
        if self.parameters.energy is None:
            return self.parameters.rank
        wanted = (self.parameters.energy - 8 * self.precision) * self._total()
        reached = np.cumsum(squares) >= wanted
        return int(np.argmax(reached)) + 1 if reached[-1] else None

    def _noise(self) -> float:
        return self.precision * max(self.n_rows, self.n_columns)

    def _total(self) -> float:
        assert self.total is not None
        return self.total

    def _images(self, block: Matrix) -> Matrix:
        """Return AᵀAV, in one pass."""
        look = _norm_at_first(self.total is None, self.n_columns)

        def multiply(first_row: int, rows: MatrixRows) -> tuple[Matrix, tuple[float, float]]:
            norm = look(first_row, rows)
            return normal_product(rows, block), norm

        told = self.plan.look(multiply, self.matrix)
        self._learn([norm for _, norm in told])
        images = np.zeros_like(block)
        for one, _ in told:
            images += one
        return images

    def _hold_product(self, basis: Matrix | None) -> tuple[H, list[Matrix]]:
        """Return Q of each block's QR decomposition of AV, held as rows, and R of each, in one pass."""
        look = _norm_at_first(self.total is None, self.n_columns)
        width = self.n_columns if basis is None else basis.shape[1]

        def project(first_row: int, rows: MatrixRows) -> tuple[FloatMatrix, tuple[Matrix, tuple[float, float]]]:
            norm = look(first_row, rows)
            product = dense(rows) if basis is None else row_product(rows, basis)
            tall, triangle = np.linalg.qr(product.astype(np.float64))
            # A block of fewer rows than columns has fewer directions; all blocks' rows are equally wide.
            wide = np.zeros((len(product), width), rows.dtype)
            wide[:, : tall.shape[1]] = tall
            return wide, (triangle, norm)

        held, told = self.plan.map_rows(project, self.matrix)
        self._learn([norm for _, norm in told])
        return held, [triangle for triangle, _ in told]

    def _whole(self) -> Matrix | None:
        """Return directions that hold all rows: all there are, or where rows are fewer than columns those of the rows,
        which the driver then holds."""
        if self.n_columns <= self.n_rows:
            return None
        look = _norm_at_first(self.total is None, self.n_columns)

        def bring(first_row: int, rows: MatrixRows) -> tuple[FloatMatrix, tuple[float, float]]:
            return np.array(dense(rows)), look(first_row, rows)

        began = time.perf_counter()
        told = self.plan.look(bring, self.matrix)
        self._learn([norm for _, norm in told])
        basis = _orthonormal(np.concatenate([rows for rows, _ in told]).T.astype(np.float64))
        self.passed("power", 0, 1.0, began)
        return basis

    def _learn(self, norms: list[tuple[float, float]]) -> None:
        if self.total is None:
            self.total = math.fsum(norm for norm, _ in norms)
            self.precision = max(precision for _, precision in norms)


def _norm_at_first(asked: bool, n_columns: int) -> Callable[[int, MatrixRows], tuple[float, float]]:
    """Return what tells ‖A‖_F² of rows and their unit of rounding, and refuses what are no such rows; on later passes
    it does nothing."""

    def look(first_row: int, rows: MatrixRows) -> tuple[float, float]:
        if not asked:
            return 0.0, 0.0
        check_shape(rows, n_columns)
        return squared_norm(rows, first_row), float(np.finfo(rows.dtype).eps)

    return look


def _orthonormal(columns: Matrix) -> Matrix:
    return np.linalg.qr(columns)[0]


def _gaussian(seed: int, purpose: int, number: int, shape: tuple[int, int]) -> Matrix:
    return np.random.default_rng([seed, purpose, number]).standard_normal(shape)


def _share(part: float, total: float) -> float:
    return min(part / total, 1.0) if total else 1.0
