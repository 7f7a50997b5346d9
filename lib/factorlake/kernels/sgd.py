"""Stochastic gradients over the ratings of one cell: those that one group of users gave one group of items.

A rating's part of the objective is

    e² + ½ (λ |u|² + λ |v|² + λ_b b_u² + λ_b b_i²),    e = r − μ − b_u − b_i − u·v,

and one step follows its negative gradient: u += α (2 e v − λ u), v += α (2 e u − λ v) with u as it was, b += α (2 e −
λ_b b). Rows are laid out so that one product is the whole prediction: (u, b_u, 1, 0…) of a user, (v, 1, b_i, 0…) of an
item, up to a whole number of vector registers. What a step may move, and the ridge of each column, are vectors too
(``Columns``), so biases cost no branch.

Cells that share neither users nor items may be worked on at the same time.

Source: Koren, Bell, Volinsky, IEEE Computer 42(8) 2009; Gemulla, Nijkamp, Haas, Sismanis, KDD 2011 (cells).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray
from scipy.special import ndtri

from factorlake.errors import ConfigError
from factorlake.types import FloatMatrix, FloatVector, IntVector, Side

from .arrays import read_only
from .hashing import hash_longs
from .initial import initial_factors
from .lanes import (
    add_products,
    aligned_zeros,
    eight_zeros,
    lane_sum,
    lanes_in,
    load,
    multiply,
    multiply_add,
    prefetch,
    spread_like,
    store,
    zeros_like,
)

AHEAD = 8
"""Rows are called for so many ratings ahead: far enough to hide a cache miss."""
CORRECTIONS = 1 << 15
"""Steps of a row whose bias corrections are looked up; later ones are computed."""
_VECTOR_BYTES = 64


class CellRatings(NamedTuple):
    """Ratings of one cell."""

    rows: NDArray[np.int32]
    """(n,) places in the group of users."""
    columns: NDArray[np.int32]
    """(n,) places in the group of items."""
    values: NDArray[np.float32]


class Columns(NamedTuple):
    """What a side's columns are, each (width,)."""

    moves: FloatVector
    """1 where a step may move the column, else 0."""
    ridge: FloatVector
    """λ of factors, λ_b of the bias, 0 of the rest."""


class GradientRows(NamedTuple):
    """The rows of one group of one side, float32 or float64. Steps change them in place."""

    parameters: FloatMatrix
    """(n, width)."""
    first_moments: FloatMatrix
    """(n, width) running means of gradients, and of their squares, for Adam; (0, width) without."""
    second_moments: FloatMatrix
    steps: NDArray[np.int64]
    """(n,) Adam's steps so far of each row; (0,) without."""


class AdamStep(NamedTuple):
    """How Adam steps."""

    learning_rate: float
    batch_size: int
    beta1: float
    beta2: float
    epsilon: float


def row_width(rank: int, biased: bool, dtype: DTypeLike) -> int:
    """Return the columns of a row: factors, two for biases, and zeros up to whole vectors."""
    lanes = _VECTOR_BYTES // np.dtype(dtype).itemsize
    return -(-(rank + 2 * int(biased)) // lanes) * lanes


@lru_cache(maxsize=16)
def side_columns(
    side: Side, rank: int, biased: bool, regularization: float, bias_regularization: float, dtype: str
) -> Columns:
    """Return what the columns of a side's rows are."""
    width = row_width(rank, biased, dtype)
    moves, ridge = np.zeros(width, dtype), np.zeros(width, dtype)
    moves[:rank], ridge[:rank] = 1, regularization
    if biased:
        bias = bias_column(side, rank)
        moves[bias], ridge[bias] = 1, bias_regularization
    return Columns(read_only(moves, dtype), read_only(ridge, dtype))


def bias_column(side: Side, rank: int) -> int:
    """Return where a side's rows have their bias; where they have the other side's stands 1."""
    return rank if side == "user" else rank + 1


def first_rows(
    side: Side,
    hashes: NDArray[np.int64],
    rank: int,
    biased: bool,
    *,
    seed: int,
    deviation: float,
    moments: bool,
    dtype: DTypeLike,
) -> GradientRows:
    """Return the rows training starts from: normal factors, biases of 0.

    Each entry depends on (seed, side, hash of the id, column) only: it is the normal quantile of a uniform draw of
    `initial_factors`.

    Parameters
    ----------
    hashes : (n,) hashes of the ids. No rows give empty arrays.
    deviation : standard deviation of a factor's entries.
    moments : whether there is room for Adam's moments, all 0.
    """
    width = row_width(rank, biased, dtype)
    parameters = aligned_zeros(len(hashes) * width, np.dtype(dtype)).reshape(len(hashes), width)
    # With this scale entries are uniform on ±1: odd multiples of 2⁻²⁴, which float32 holds exactly and ±1 is not of.
    own_seed = 2 * seed + int(side == "item")
    uniform = initial_factors(hashes, rank, own_seed, float(np.sqrt(rank / 3.0))).astype(np.float64)
    parameters[:, :rank] = (deviation * ndtri((uniform + 1.0) / 2.0)).astype(np.float32)
    if biased:
        parameters[:, bias_column("item" if side == "user" else "user", rank)] = 1
    n_kept = len(hashes) if moments else 0
    first, second = (aligned_zeros(n_kept * width, np.dtype(dtype)).reshape(n_kept, width) for _ in range(2))
    return GradientRows(parameters, first, second, np.zeros(n_kept, np.int64))


def draw_key(*numbers: int) -> int:
    """Return 64 bits that follow from a few whole numbers: the seed of one draw."""
    key = np.zeros(1, np.uint64)
    for one in numbers:
        key = hash_longs(np.array([one & 0xFFFFFFFFFFFFFFFF], np.uint64).view(np.int64), key)
    return int(key[0])


def drawn_order(n: int, key: int) -> NDArray[np.int32]:
    """Return the numbers below n (less than 2³¹) in a random order, the same for the same key on any CPU.

    Source: Durstenfeld, Communications of the ACM 7(7) 1964; draws by Steele, Lea, Flood, OOPSLA 2014 (SplitMix64).
    """
    return _shuffled(n, np.uint64(key))


def sgd_cell(
    users: GradientRows,
    items: GradientRows,
    ratings: CellRatings,
    order: IntVector,
    mean: float,
    learning_rate: float,
    user_columns: Columns,
    item_columns: Columns,
) -> None:
    """Take one step for each rating, in an order, which moves the rows in place.

    Parameters
    ----------
    order : places in ``ratings``; none of them move nothing.
    mean : μ.
    """
    dtype = users.parameters.dtype
    # x ← (1 − α·ridge) x + e·(2α·moves) y
    keep_user, keep_item = (_vector(1.0 - learning_rate * one.ridge, dtype) for one in (user_columns, item_columns))
    move_user, move_item = (_vector(2.0 * learning_rate * one.moves, dtype) for one in (user_columns, item_columns))
    _descend(
        users.parameters.reshape(-1),
        items.parameters.reshape(-1),
        _frozen(ratings),
        read_only(order, np.int32),
        mean,
        (keep_user, move_user),
        (keep_item, move_item),
    )


def adam_cell(
    users: GradientRows,
    items: GradientRows,
    ratings: CellRatings,
    order: IntVector,
    mean: float,
    step: AdamStep,
    user_columns: Columns,
    item_columns: Columns,
) -> None:
    """Take one step of Adam for each mini-batch of ratings, in an order, which moves rows and moments in place.

    The gradient is that of the batch's sum of objectives, taken at the rows as they were before the batch. Only rows
    that occur in the batch move, and each counts its own steps for the bias correction: with g its gradient, t its
    steps, m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², x ← x − α (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε).

    Parameters
    ----------
    order : places in ``ratings``, cut into batches from its beginning; the last may be shorter.

    Source: Kingma, Ba, ICLR 2015, algorithm 1; rows without a gradient are left out, as "lazy" or "sparse" Adam does.
    """
    dtype = users.parameters.dtype
    # g = ridge·x + e·(−2·moves) y, of each rating
    user_pull, item_pull = (
        (_vector(one.ridge, dtype), _vector(-2.0 * one.moves, dtype)) for one in (user_columns, item_columns)
    )
    first, second = adam_corrections(step.beta1, step.beta2)
    _adam(users, items, _frozen(ratings), read_only(order, np.int32), mean, step, user_pull, item_pull, first, second)


@lru_cache(maxsize=8)
def adam_corrections(beta1: float, beta2: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 1/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ) of the steps t from 1 to CORRECTIONS.

    Raises
    ------
    ConfigError : a β is not in [0, 1).
    """
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ConfigError(f"beta1 and beta2 must lie in [0, 1), got {beta1} and {beta2}")
    steps = np.arange(1, CORRECTIONS + 1)
    first, second = 1.0 / (1.0 - beta1**steps), 1.0 / np.sqrt(1.0 - beta2**steps)
    return read_only(first, np.float64), read_only(second, np.float64)


def cell_errors(
    users: FloatMatrix,
    items: FloatMatrix,
    ratings: CellRatings,
    mean: float,
    bounds: tuple[float, float],
    user_columns: Columns,
    item_columns: Columns,
) -> NDArray[np.float64]:
    """Return Σ e², Σ (r − r̂)², Σ |r − r̂| and the ridge ½ Σ (ridge·x² + ridge·y²) over ratings, in float64.

    Parameters
    ----------
    users, items : the parameters of the groups' rows.
    bounds : r̂ is the prediction held within these; ±infinity where it may be any number.

    Returns
    -------
    (4,) sums; zeros without ratings. Products of rows are taken in float64.
    """
    dtype = users.dtype
    return _errors(
        read_only(users, dtype).reshape(-1),
        read_only(items, dtype).reshape(-1),
        _frozen(ratings),
        mean,
        bounds[0],
        bounds[1],
        _vector(user_columns.ridge, dtype),
        _vector(item_columns.ridge, dtype),
    )


def _frozen(ratings: CellRatings) -> CellRatings:
    return CellRatings(
        read_only(ratings.rows, np.int32), read_only(ratings.columns, np.int32), read_only(ratings.values, np.float32)
    )


def _vector(values: FloatVector, dtype: DTypeLike) -> FloatVector:
    """Return a vector that starts at a cache line."""
    aligned = aligned_zeros(len(values), np.dtype(dtype))
    aligned[:] = values
    return read_only(aligned, dtype)


# Every number is a uint64: numba makes a float of a uint64 and an int64.
@njit(cache=True, nogil=True)
def _shuffled(n: int, key: np.uint64) -> NDArray[np.int32]:
    order = np.arange(n).astype(np.int32)
    state = key
    for last in range(n - 1, 0, -1):
        state += np.uint64(0x9E3779B97F4A7C15)
        bits = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
        # 32 of the bits times the count, over 2³²: off evenness by less than one in 2³²/n.
        place = np.int64(((bits >> np.uint64(32)) * np.uint64(last + 1)) >> np.uint64(32))
        order[last], order[place] = order[place], order[last]
    return order


@njit(cache=True, nogil=True)
def _descend(
    users: FloatVector,
    items: FloatVector,
    ratings: CellRatings,
    order: IntVector,
    mean: float,
    user_steps: tuple[FloatVector, FloatVector],
    item_steps: tuple[FloatVector, FloatVector],
) -> None:
    keep_user, move_user = user_steps
    keep_item, move_item = item_steps
    rows, columns, values = ratings
    width, lanes = len(keep_user), lanes_in(users)
    for place in range(len(order)):
        if place + AHEAD < len(order):
            coming = order[place + AHEAD]
            prefetch(users, rows[coming] * width)
            prefetch(items, columns[coming] * width)
        one = order[place]
        user, item = rows[one] * width, columns[one] * width
        product = zeros_like(users)
        for a in range(0, width, lanes):
            product = multiply_add(load(users, user + a), load(items, item + a), product)
        error = spread_like(users, np.float64(values[one]) - mean - lane_sum(product))
        for a in range(0, width, lanes):
            x, y = load(users, user + a), load(items, item + a)
            moved = multiply_add(multiply(error, load(move_user, a)), y, multiply(load(keep_user, a), x))
            store(
                items, item + a, multiply_add(multiply(error, load(move_item, a)), x, multiply(load(keep_item, a), y))
            )
            store(users, user + a, moved)


@njit(cache=True, nogil=True)
def _adam(
    users: GradientRows,
    items: GradientRows,
    ratings: CellRatings,
    order: IntVector,
    mean: float,
    step: AdamStep,
    user_pull: tuple[FloatVector, FloatVector],
    item_pull: tuple[FloatVector, FloatVector],
    first_corrections: FloatVector,
    second_corrections: FloatVector,
) -> None:
    ridge_user, move_user = user_pull
    ridge_item, move_item = item_pull
    rows, columns, values = ratings
    x, y = users.parameters.reshape(-1), items.parameters.reshape(-1)
    width, lanes = len(ridge_user), lanes_in(x)
    most = min(step.batch_size, len(order))
    user_gradient = aligned_zeros(most * width, x.dtype)
    item_gradient = aligned_zeros(most * width, x.dtype)
    user_rows, item_rows = np.empty(most, np.int64), np.empty(most, np.int64)
    # The place of each row's gradient in the batch, or −1.
    user_place = np.full(users.parameters.shape[0], -1, np.int64)
    item_place = np.full(items.parameters.shape[0], -1, np.int64)
    for first in range(0, len(order), step.batch_size):
        n_users = n_items = 0
        for place in range(first, min(first + step.batch_size, len(order))):
            one = order[place]
            row, column = rows[one], columns[one]
            if user_place[row] < 0:
                user_place[row] = n_users
                user_rows[n_users] = row
                user_gradient[n_users * width : (n_users + 1) * width] = 0
                n_users += 1
            if item_place[column] < 0:
                item_place[column] = n_items
                item_rows[n_items] = column
                item_gradient[n_items * width : (n_items + 1) * width] = 0
                n_items += 1
            user, item = row * width, column * width
            user_at, item_at = user_place[row] * width, item_place[column] * width
            product = zeros_like(x)
            for a in range(0, width, lanes):
                product = multiply_add(load(x, user + a), load(y, item + a), product)
            error = spread_like(x, np.float64(values[one]) - mean - lane_sum(product))
            for a in range(0, width, lanes):
                own, other = load(x, user + a), load(y, item + a)
                pull = multiply_add(load(ridge_user, a), own, load(user_gradient, user_at + a))
                pull = multiply_add(multiply(error, load(move_user, a)), other, pull)
                store(user_gradient, user_at + a, pull)
                pull = multiply_add(load(ridge_item, a), other, load(item_gradient, item_at + a))
                pull = multiply_add(multiply(error, load(move_item, a)), own, pull)
                store(item_gradient, item_at + a, pull)
        _step(users, user_rows[:n_users], user_gradient, step, first_corrections, second_corrections)
        _step(items, item_rows[:n_items], item_gradient, step, first_corrections, second_corrections)
        user_place[user_rows[:n_users]] = -1
        item_place[item_rows[:n_items]] = -1


# Python's division looks for zeros, number by number. There are no sums here to put into vectors, and no product may be
# fused where the compiler likes: it keeps two copies of a function that another calls, and may differ between them.
@njit(cache=True, nogil=True, error_model="numpy")
def _step(
    moved: GradientRows,
    rows: IntVector,
    gradient: FloatVector,
    step: AdamStep,
    first_corrections: FloatVector,
    second_corrections: FloatVector,
) -> None:
    width, kind = moved.parameters.shape[1], gradient.dtype.type
    beta1, beta2 = kind(step.beta1), kind(step.beta2)
    rest1, rest2 = kind(1.0 - step.beta1), kind(1.0 - step.beta2)
    epsilon = kind(step.epsilon)
    for place in range(len(rows)):
        row = rows[place]
        steps = moved.steps[row] + 1
        moved.steps[row] = steps
        if steps <= CORRECTIONS:
            correct1, correct2 = first_corrections[steps - 1], second_corrections[steps - 1]
        else:
            correct1, correct2 = 1.0 / (1.0 - step.beta1**steps), 1.0 / np.sqrt(1.0 - step.beta2**steps)
        length, root = kind(step.learning_rate * correct1), kind(correct2)
        x, m, v = moved.parameters[row], moved.first_moments[row], moved.second_moments[row]
        g = gradient[place * width : (place + 1) * width]
        for a in range(width):
            m[a] = beta1 * m[a] + rest1 * g[a]
            v[a] = beta2 * v[a] + rest2 * g[a] * g[a]
            x[a] -= length * m[a] / (root * np.sqrt(v[a]) + epsilon)


@njit(cache=True, nogil=True)
def _errors(
    users: FloatVector,
    items: FloatVector,
    ratings: CellRatings,
    mean: float,
    low: float,
    high: float,
    user_ridge: FloatVector,
    item_ridge: FloatVector,
) -> NDArray[np.float64]:
    rows, columns, values = ratings
    width, lanes = len(user_ridge), lanes_in(users)
    sums = np.zeros(4)
    ridge = eight_zeros()
    for one in range(len(values)):
        if one + AHEAD < len(values):
            prefetch(items, columns[one + AHEAD] * width)
        user, item = rows[one] * width, columns[one] * width
        product = eight_zeros()
        for a in range(0, width, lanes):
            x, y = load(users, user + a), load(items, item + a)
            product = add_products(x, y, product)
            ridge = add_products(multiply(x, load(user_ridge, a)), x, ridge)
            ridge = add_products(multiply(y, load(item_ridge, a)), y, ridge)
        predicted = mean + lane_sum(product)
        error = np.float64(values[one]) - predicted
        sums[0] += error * error
        # Comparisons leave NaN as it is.
        if predicted < low:
            predicted = low
        elif predicted > high:
            predicted = high
        error = np.float64(values[one]) - predicted
        sums[1] += error * error
        sums[2] += abs(error)
    sums[3] = 0.5 * lane_sum(ridge)
    return sums
