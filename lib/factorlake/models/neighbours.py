"""Neighbours on one machine: the rows most alike by cosine, and recommendations weighted by them.

Similarities are those of the raw rating matrix, or of the predicted matrix P = μ + b_u + b_i + X Yᵀ, which is never
formed. All are exact, over all pairs of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.kernels.gram import block_gram, eigenbasis, rotate_rows
from factorlake.kernels.neighbours import (
    PADDING,
    BestLists,
    SparseRows,
    TurnedRows,
    empty_lists,
    offer_cosines,
    offer_weighted,
    row_lengths,
    sorted_lists,
    sparse_rows,
    turned_rows,
)
from factorlake.kernels.packing import CompressedRows, join_values, transpose_rows
from factorlake.kernels.top_k import best_items, order_items
from factorlake.types import FloatMatrix, FloatVector, IntVector, RatingBlock

from .blocks import OBSERVATIONS_PER_BLOCK, block_of, number_of_blocks
from .threads import single_threaded_blas

# Eigenvalues of a Gram matrix below this share of the largest, for each of its columns, are what rounding left.
ROUNDING = 2.0**-52
# A predicted row shorter than this share of the longest that its factors could make is zero but for rounding.
NO_DIRECTION = 1e-12
ROWS_AT_ONCE = 65_536
# Sums for so many rows of the other block stay in a core's own cache; of fewer rows each visit adds to a few sums only.
ROWS_IN_REACH = 4096


class Sized(Protocol):
    """A block of rows of which the sizes are known."""

    @property
    def n_rows(self) -> int: ...

    @property
    def n_obs(self) -> int: ...


Block = TypeVar("Block", bound=Sized)


@dataclass(frozen=True)
class NeighbourRules:
    """Which rows count as neighbours, and how many of them."""

    n: int = 20
    """Neighbours kept of each row."""
    min_support: int = 1
    """Least number of common observations."""
    positive_only: bool = False
    """Leave out similarities of 0 and below."""
    shrinkage: float = 0.0
    """β: a similarity with s common observations counts s/(s + β) of itself."""

    def __post_init__(self) -> None:
        for name, least in {"n": 1, "min_support": 1, "shrinkage": 0}.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def offer(self, lists: BestLists, rows: SparseRows, turned: TurnedRows) -> None:
        """Offer the rows of one block to the lists of another (``kernels.neighbours.offer_cosines``)."""
        offer_cosines(
            lists,
            rows,
            turned,
            min_support=self.min_support,
            positive_only=self.positive_only,
            shrinkage=self.shrinkage,
        )


@dataclass(frozen=True)
class RankedLists:
    """The best entries of each row, best first."""

    entries: NDArray[np.int32]
    """(n_rows, n) positions; −1 where there are fewer."""
    values: NDArray[np.float32]
    """(n_rows, n) similarities or scores; −inf where there are fewer."""
    support: NDArray[np.int32]
    """(n_rows, n) common observations behind a similarity, or neighbours behind a score."""


def cosine_neighbours(
    blocks: Sequence[RatingBlock],
    n_others: int,
    rules: NeighbourRules,
    tie_rank: IntVector,
    threads: int = 1,
) -> RankedLists:
    """Return the neighbours of each row of one side by cos(a, b) = Σ r_a r_b / (|a| |b|) on the ratings.

    Parameters
    ----------
    blocks : of one side, in order and without a gap, as ``blocks.pack_positions`` returns them. A rating of 0 means
        that nothing was observed. No blocks give no lists.
    n_others : number of rows of the other side.
    rules : length of the lists and what may stand in them.
    tie_rank : (n_rows,) distinct, such as the ranks of ids; of equal similarities the smaller goes first.
    threads : blocks worked on at the same time; changes no number.

    Similarities are rounded to float32 before they are compared. They have the same bits for any blocks and threads.
    The ratings are held a second time, compressed by the other side.

    Raises
    ------
    ConfigError : there is not one tie rank for each row.
    NumericalError : a rating is NaN or infinite; names its row.
    """
    n_rows = sum(block.n_rows for block in blocks)
    if len(tie_rank) != n_rows:
        raise ConfigError(f"shapes do not fit: {n_rows} rows, {len(tie_rank)} tie ranks")
    ranks = np.asarray(tie_rank)

    def turn(group: Sequence[RatingBlock]) -> TurnedRows:
        rows = sparse_rows(_whole([_compressed(block) for block in group]), group[0].first_row)
        return turned_rows(rows, n_others, ranks[rows.first_row : rows.first_row + len(rows.norms)])

    with ThreadPoolExecutor(threads, thread_name_prefix="neighbours") as pool:
        turned = list(pool.map(turn, blocks_in_reach(blocks)))

        def search(block: RatingBlock) -> RankedLists:
            lists = empty_lists(block.n_rows, rules.n)
            rows = sparse_rows(_compressed(block), block.first_row)
            for others in turned:
                rules.offer(lists, rows, others)
            return RankedLists(*sorted_lists(lists))

        return _joined(list(pool.map(search, blocks)), rules.n)


def predicted_neighbours(
    factors: FloatMatrix,
    root: FloatMatrix,
    n: int,
    tie_rank: IntVector,
    biases: FloatVector | None = None,
    mean: float = 0.0,
    threads: int = 1,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the neighbours of each row by cosine on the predicted matrix, over all its columns.

    Parameters
    ----------
    factors : (n_rows, rank) of the side that gets lists; ``biases`` (n_rows,) its biases, ``mean`` μ.
    root : of the other side, by `predicted_root`, which must have been told of the same biases.
    n : list length, at least 1.
    tie_rank : (n_rows,) distinct; of equal similarities the smaller goes first.
    threads : rows scored at the same time; changes no number.

    Returns
    -------
    neighbours (n_rows, n) int32 and similarities (n_rows, n) float32, best first; −1 and −inf where there are fewer. A
    row that is predicted to be zero everywhere has no neighbours and is nobody's.

    A similarity is the product of two directions that are rounded to float32: it is off by less than 2⁻²² at most.

    Raises
    ------
    ConfigError : n below 1, or shapes that do not fit.
    NumericalError : a factor or bias is NaN or infinite; names the first such row.
    """
    units = predicted_directions(factors, root, biases, mean)
    directed = np.any(units, axis=1)
    rows = np.arange(len(units))
    with single_threaded_blas():
        items = order_items(units, tie_rank, allowed=directed)
        best, cosines = best_items(units, items, n, np.arange(len(units) + 1), rows, threads=threads)
    best[~directed], cosines[~directed] = PADDING, -np.inf
    return best, cosines


def predicted_root(
    factors: FloatMatrix, hashes: NDArray[np.int64], biases: FloatVector | None = None, offsets: bool = False
) -> NDArray[np.float64]:
    """Return B with B Bᵀ = ỸᵀỸ, from the factors of the other side: what lengths and angles of predicted rows need.

    Parameters
    ----------
    factors : (n_others, rank); ``biases`` (n_others,) or None for none.
    hashes : (n_others,) ascending 64-bit hashes of the ids, which cut rows into blocks: sums are taken block by block.
    offsets : whether predictions have a mean or biases, of either side. Then a row is (y, 1, b), else y.

    Returns
    -------
    (rank or rank + 2, at least 1) float64: columns of eigenvectors, scaled; those that are zero are left out.

    Raises
    ------
    ConfigError : as many hashes as there are rows are wanted.
    NumericalError : a factor is NaN or infinite; names the first bad row.
    """
    if len(hashes) != len(factors):
        raise ConfigError(f"shapes do not fit: {len(factors)} rows, {len(hashes)} hashes")
    width = factors.shape[1] + (2 if offsets else 0)
    n_blocks = blocks_of_factors(len(factors), factors.shape[1])
    ends = np.searchsorted(block_of(hashes, n_blocks), np.arange(n_blocks + 1))
    total = np.zeros((width, width))
    for first, last in pairwise(ends.tolist()):
        if first < last:
            part = None if biases is None else biases[first:last]
            total += predicted_gram(factors[first:last], part, offsets, first)
    return gram_root(total)


def predicted_gram(
    factors: FloatMatrix, biases: FloatVector | None, offsets: bool, first_row: int
) -> NDArray[np.float64]:
    """Return ỸᵀỸ of one block of the other side; parameters as in `predicted_root`."""
    with single_threaded_blas():
        return block_gram(_widened(factors, biases, 0.0, 2) if offsets else factors, first_row)


def gram_root(gram: FloatMatrix) -> NDArray[np.float64]:
    """Return Q√Λ of a Gram matrix, without the columns that are zero but for rounding; at least one column."""
    with single_threaded_blas():
        basis, eigenvalues = eigenbasis(gram)
    kept = max(1, int(np.sum(eigenvalues > len(gram) * ROUNDING * eigenvalues[0])))
    return np.ascontiguousarray(basis[:, :kept] * np.sqrt(eigenvalues[:kept]))


def blocks_of_factors(n_rows: int, rank: int) -> int:
    """Return the number of logical blocks of a side of factors: fixed by its size alone."""
    return number_of_blocks(n_rows * rank)


def predicted_directions(
    factors: FloatMatrix, root: FloatMatrix, biases: FloatVector | None = None, mean: float = 0.0, first_row: int = 0
) -> NDArray[np.float32]:
    """Return the directions x̃B/|x̃B| of predicted rows, of which products are cosines; zeros where a row has none.

    Parameters
    ----------
    factors, root, biases, mean : as in `predicted_neighbours`.
    first_row : position of the first row on its side, to name a bad row.

    Raises
    ------
    ConfigError, NumericalError : as `predicted_neighbours`.
    """
    n_rows, rank = factors.shape
    if len(root) not in (rank, rank + 2):
        raise ConfigError(f"shapes do not fit: factors of rank {rank}, a root of {len(root)} rows")
    offsets = len(root) == rank + 2
    if not offsets and (mean != 0 or (biases is not None and np.any(biases))):
        raise ConfigError("predictions have a mean or biases, of which the root knows nothing: make it with offsets")
    units = np.zeros((n_rows, root.shape[1]), np.float32)
    longest = np.sqrt(np.sum(root[:, 0] ** 2))
    for first in range(0, n_rows, ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        rows = factors[part].astype(np.float64)
        if offsets:
            rows = _widened(rows, None if biases is None else biases[part], mean, 1)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise NumericalError(
                f"the factors of row {first_row + first + int(bad[0])} are not finite; train the model again"
            )
        turned = rotate_rows(rows, root)
        lengths = row_lengths(turned)
        directed = lengths > NO_DIRECTION * longest * row_lengths(rows)
        units[part][directed] = turned[directed] / lengths[directed, None]
    return units


def recommend_from_users(
    user_blocks: Sequence[RatingBlock],
    n_items: int,
    neighbours: RankedLists,
    k: int,
    tie_rank: IntVector,
    *,
    mean: bool = True,
    min_support: int = 1,
    threads: int = 1,
) -> RankedLists:
    """Return each user's k best items that the user does not know, by what the user's neighbours rated them.

    score(u, i) = Σ_v sim(u, v) r_vi / Σ_v sim(u, v), both sums over the neighbours v of u that rated i.

    Parameters
    ----------
    user_blocks : all users' ratings, as in `cosine_neighbours`.
    neighbours : of users. Those whose similarity is not positive take no part.
    k : list length, at least 1.
    tie_rank : (n_items,) distinct; of equal scores the smaller goes first.
    mean : without it the score is the sum above the line: for ratings that are all 1, whose means are all 1 too.
    min_support : least number of neighbours that rated an item. An item that nobody of them rated is not offered.
    threads : blocks worked on at the same time; changes no number.

    Raises
    ------
    ConfigError : k below 1, or shapes that do not fit.
    NumericalError : a rating is NaN or infinite; names its row.

    Source: Sarwar et al., WWW 2001, section 3.2.1 (weighted sum), with users in the place of items.
    """
    _same_sizes(user_blocks, neighbours, "users")
    known = [_told(block) for block in user_blocks]
    ratings = _whole(known)
    throughs: list[CompressedRows] = []
    for block in user_blocks:
        rows = slice(block.first_row, block.first_row + block.n_rows)
        throughs.append(positive_lists(neighbours.entries[rows], neighbours.values[rows]))
    return _offered(throughs, ratings, known, k, n_items, tie_rank, True, mean, min_support, threads)


def recommend_from_items(
    user_blocks: Sequence[RatingBlock],
    neighbours: RankedLists,
    k: int,
    tie_rank: IntVector,
    *,
    mean: bool = True,
    min_support: int = 1,
    threads: int = 1,
) -> RankedLists:
    """Return each user's k best items that the user does not know, by what the user rated the items' neighbours.

    score(u, i) = Σ_j sim(i, j) r_uj / Σ_j sim(i, j), both sums over the neighbours j of i that u rated.

    Parameters
    ----------
    neighbours : of items. Those whose similarity is not positive take no part.
    min_support : least number of an item's neighbours that the user rated.

    The others are those of `recommend_from_users`, and so is what is raised.

    Sources: Sarwar et al., WWW 2001, section 3.2.1 (mean); Deshpande and Karypis, ACM TOIS 22(1) 2004, section 4 (sum).
    """
    n_items = len(tie_rank)
    if len(neighbours.entries) != n_items:
        raise ConfigError(f"shapes do not fit: neighbours of {len(neighbours.entries)} items, {n_items} tie ranks")
    known = [_told(block) for block in user_blocks]
    counted_by = transpose_rows(positive_lists(neighbours.entries, neighbours.values), n_items)
    return _offered(known, counted_by, known, k, n_items, tie_rank, False, mean, min_support, threads)


def _offered(
    throughs: Sequence[CompressedRows],
    inner: CompressedRows,
    known: Sequence[CompressedRows],
    k: int,
    n_items: int,
    tie_rank: IntVector,
    weights_are_outer: bool,
    mean: bool,
    min_support: int,
    threads: int,
) -> RankedLists:
    if len(tie_rank) != n_items:
        raise ConfigError(f"shapes do not fit: {n_items} items, {len(tie_rank)} tie ranks")
    empty_lists(0, k)  # refuses a k below 1 also where there are no users

    def offer(outer: CompressedRows, own: CompressedRows) -> RankedLists:
        lists = empty_lists(len(own.row_ptr) - 1, k)
        offer_weighted(
            lists, outer, inner, own, tie_rank,
            weights_are_outer=weights_are_outer, mean=mean, min_support=min_support,
        )  # fmt: skip
        return RankedLists(*sorted_lists(lists))

    with ThreadPoolExecutor(threads, thread_name_prefix="neighbours") as pool:
        return _joined(list(pool.map(offer, throughs, known)), k)


def blocks_in_reach(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return blocks in order, small ones together: up to ROWS_IN_REACH rows and OBSERVATIONS_PER_BLOCK observations."""
    groups: list[list[Block]] = []
    for block in blocks:
        met = groups[-1] if groups else []
        n_rows, n_obs = sum(one.n_rows for one in met), sum(one.n_obs for one in met)
        if met and n_rows + block.n_rows <= ROWS_IN_REACH and n_obs + block.n_obs <= OBSERVATIONS_PER_BLOCK:
            met.append(block)
        else:
            groups.append([block])
    return groups


def _compressed(block: RatingBlock) -> CompressedRows:
    return CompressedRows(block.row_ptr, block.neighbours, block.values)


def _told(block: RatingBlock) -> CompressedRows:
    """Return a block's ratings without zeros."""
    rows = sparse_rows(_compressed(block), block.first_row)
    return CompressedRows(rows.row_ptr, rows.neighbours, rows.values if len(rows.values) else None)


def _whole(parts: Sequence[CompressedRows]) -> CompressedRows:
    """Return the rows of all blocks as one structure."""
    row_ptr = np.zeros(sum(len(part.row_ptr) - 1 for part in parts) + 1, np.int64)
    if not parts:
        return CompressedRows(row_ptr, np.empty(0, np.int32), None)
    np.cumsum(np.concatenate([np.diff(part.row_ptr) for part in parts]), out=row_ptr[1:])
    values = join_values([(len(part.neighbours), part.values) for part in parts])
    return CompressedRows(row_ptr, np.concatenate([part.neighbours for part in parts]), values)


def positive_lists(entries: NDArray[np.int32], values: NDArray[np.float32]) -> CompressedRows:
    """Return lists as rows of what counts: without entries that are not positive, each row's in the order of its
    list."""
    kept = (entries != PADDING) & (values > 0)
    row_ptr = np.zeros(len(entries) + 1, np.int64)
    np.cumsum(kept.sum(axis=1), out=row_ptr[1:])
    return CompressedRows(row_ptr, entries[kept], values[kept])


def _same_sizes(blocks: Sequence[RatingBlock], neighbours: RankedLists, side: str) -> None:
    n_rows = sum(block.n_rows for block in blocks)
    if len(neighbours.entries) != n_rows:
        raise ConfigError(f"shapes do not fit: {n_rows} {side}, neighbours of {len(neighbours.entries)}")


def _joined(parts: Sequence[RankedLists], n: int) -> RankedLists:
    if not parts:
        return RankedLists(*sorted_lists(empty_lists(0, n)))
    columns: list[Callable[[RankedLists], NDArray]] = [lambda p: p.entries, lambda p: p.values, lambda p: p.support]
    return RankedLists(*(np.concatenate([column(part) for part in parts]) for column in columns))


def _widened(rows: FloatMatrix, biases: FloatVector | None, mean: float, bias_column: int) -> NDArray[np.float64]:
    """Return (x, b + μ, 1) (``bias_column`` 1) or (y, 1, b + μ) (2), whose products are predictions."""
    n_rows, rank = rows.shape
    wide = np.ones((n_rows, rank + 2))
    wide[:, :rank] = rows
    wide[:, rank + bias_column - 1] = mean if biases is None else np.asarray(biases, np.float64) + mean
    return wide
