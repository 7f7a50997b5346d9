"""Neighbours of rows by cosine, exactly, and scores that are weighted by neighbours; from sparse rows, block by block.

A block of rows meets another block that is compressed by the other side's index. A row walks what it has observed, in
ascending order, and adds its products to one sum for each row of the other block; what may belong to its list goes to a
heap of bounded size. Products of two float32 are exact in float64 and every sum runs over the common observations in
ascending order, so a similarity has the same bits whatever the blocks; lists are ordered by (value, tie rank), which
leaves no two entries equal, so they do not depend on the order in which blocks are met either.

Sources: Sarwar, Karypis, Konstan, Riedl, WWW 2001, sections 3.1 and 3.2; Deshpande and Karypis, ACM TOIS 22(1) 2004,
section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.types import FloatMatrix, FloatVector, IntVector

from .arrays import read_only
from .lanes import uncounted
from .packing import CompressedRows, transpose_rows

PADDING = -1
# A row that met fewer entries of the other block than this share of its rows visits those again; else it looks at all
# rows of the block in turn, which is cheaper than it sounds.
REVISITED_SHARE = 0.5
# A bound that rounding to float32 cannot deceive.
NEARLY = 1 - 2.0**-20


class SparseRows(NamedTuple):
    """A block of rows without zeros, compressed by row. All arrays are read-only and contiguous."""

    first_row: int
    """Position of the first row on its side."""
    row_ptr: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    """What each row has observed of the other side, ascending within a row."""
    values: NDArray[np.float32]
    """Empty when every value is 1."""
    norms: NDArray[np.float64]
    """(n_rows,) |r| of each row."""


class TurnedRows(NamedTuple):
    """The same block compressed by the other side's index, with what orders ties. Read-only and contiguous."""

    first_row: int
    ptr: NDArray[np.int64]
    """(n_others + 1,)."""
    rows: NDArray[np.int32]
    """Rows of the block, ascending within one index of the other side."""
    values: NDArray[np.float32]
    norms: NDArray[np.float64]
    tie_rank: NDArray[np.int64]
    """(n_rows,) distinct over all rows of the side; of equal similarities the smaller goes first."""


class BestLists(NamedTuple):
    """The best entries of each row so far: heaps of bounded size, the worst entry first."""

    entries: NDArray[np.int32]
    """(n_rows, n) positions."""
    values: NDArray[np.float32]
    support: NDArray[np.int32]
    """(n_rows, n) how many observations stand behind each value."""
    ties: NDArray[np.int64]
    """(n_rows, n) tie rank of each entry."""
    sizes: NDArray[np.int64]
    """(n_rows,) entries of each heap."""


def empty_lists(n_rows: int, n: int) -> BestLists:
    """Return lists of at most ``n`` entries for ``n_rows`` rows, with nothing in them.

    Raises
    ------
    ConfigError : n below 1.
    """
    if n < 1:
        raise ConfigError(f"n, the length of the lists, must be at least 1, got {n}")
    return BestLists(
        entries=np.full((n_rows, n), PADDING, np.int32),
        values=np.full((n_rows, n), -np.inf, np.float32),
        support=np.zeros((n_rows, n), np.int32),
        ties=np.zeros((n_rows, n), np.int64),
        sizes=np.zeros(n_rows, np.int64),
    )


def lists_between(lists: BestLists, first: int, last: int) -> BestLists:
    """Return the lists of some rows, to be changed in place."""
    rows = slice(first, last)
    entries, values, support, ties, sizes = lists
    return BestLists(entries[rows], values[rows], support[rows], ties[rows], sizes[rows])


def sparse_rows(compressed: CompressedRows, first_row: int = 0) -> SparseRows:
    """Return a block of rows as the kernels read it. An entry of 0 means that nothing was observed: it is left out.

    Raises
    ------
    NumericalError : a value is NaN or infinite; names its row.
    """
    row_ptr, neighbours, values = compressed
    if values is not None:
        finite = np.isfinite(values)
        if not finite.all():
            place = int(np.argmin(finite))
            row = first_row + int(np.searchsorted(row_ptr, place, side="right")) - 1
            raise NumericalError(f"a value of row {row} is {values[place]}; leave out or mend such values")
        told = values != 0
        if not told.all():
            row_ptr = np.concatenate([[0], np.cumsum(told)])[row_ptr]
            neighbours, values = neighbours[told], values[told]
    pointers = read_only(row_ptr, np.int64)
    kept = read_only(np.empty(0) if values is None else values, np.float32)
    norms = np.sqrt(np.diff(pointers)) if values is None else _norms(pointers, kept)
    return SparseRows(first_row, pointers, read_only(neighbours, np.int32), kept, read_only(norms, np.float64))


def turned_rows(rows: SparseRows, n_others: int, tie_rank: IntVector) -> TurnedRows:
    """Return a block compressed by the other side's index.

    Parameters
    ----------
    n_others : number of indexes of the other side that ``rows.neighbours`` count.
    tie_rank : (n_rows,) of the block's rows.

    Raises
    ------
    ConfigError : a tie rank is missing.
    """
    if len(tie_rank) != len(rows.norms):
        raise ConfigError(f"shapes do not fit: {len(rows.norms)} rows, {len(tie_rank)} tie ranks")
    values = rows.values if len(rows.values) else None
    turned = transpose_rows(CompressedRows(rows.row_ptr, rows.neighbours, values), n_others)
    return held_turned(rows.first_row, turned, rows.norms, tie_rank)


def held_turned(first_row: int, turned: CompressedRows, norms: FloatVector, tie_rank: IntVector) -> TurnedRows:
    """Return a turned block from its arrays, which may be mapped from files."""
    return TurnedRows(
        first_row=first_row,
        ptr=read_only(turned.row_ptr, np.int64),
        rows=read_only(turned.neighbours, np.int32),
        values=read_only(np.empty(0) if turned.values is None else turned.values, np.float32),
        norms=read_only(norms, np.float64),
        tie_rank=read_only(tie_rank, np.int64),
    )


def offer_cosines(
    lists: BestLists,
    rows: SparseRows,
    turned: TurnedRows,
    *,
    min_support: int = 1,
    positive_only: bool = False,
    shrinkage: float = 0.0,
) -> None:
    """Offer the rows of ``turned`` to the lists of ``rows``, by cos(a, b) = Σ r_a r_b / (|a| |b|).

    Parameters
    ----------
    lists : of ``rows``; changed in place.
    rows : their ``neighbours`` are indexes of ``turned.ptr``; −1 stands for what no row of that block has observed.
    min_support : least number of common observations. Rows that have none in common are never neighbours, though their
        cosine is 0.
    positive_only : leave out similarities of 0 and below.
    shrinkage : β: a similarity with s common observations counts s/(s + β) of itself (Bell and Koren, ICDM 2007).

    A row is not its own neighbour; a row without observations has none. Similarities are rounded to float32 before
    they are compared, so that rows in one direction are equally near, and ties go by tie rank.
    """
    _offer_cosines(lists, rows, turned, max(min_support, 1), positive_only, np.float64(shrinkage))


def row_lengths(rows: FloatMatrix) -> NDArray[np.float64]:
    """Return |x| of each row (n_rows, any), each summed in the same order whatever rows stand beside it."""
    return _lengths(read_only(rows, np.float64))


def merge_lists(
    lists: BestLists, entries: NDArray[np.int32], values: NDArray[np.float32], support: int, tie_rank: IntVector
) -> None:
    """Offer candidates (n_rows, any), −1 for none, to the lists, which change in place.

    ``tie_rank`` (n_rows, any) are the candidates' own; ``support`` is told of each.
    """
    _merge(lists, read_only(entries, np.int32), read_only(values, np.float32), support, read_only(tie_rank, np.int64))


def sorted_lists(lists: BestLists) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Return entries, values and support (n_rows, n), best first; −1, −inf and 0 where there are fewer.

    The lists are sorted in place and take no more entries.
    """
    _sort(lists)
    return lists.entries, lists.values, lists.support


def offer_weighted(
    lists: BestLists,
    outer: CompressedRows,
    inner: CompressedRows,
    known: CompressedRows,
    tie_rank: IntVector,
    *,
    weights_are_outer: bool,
    mean: bool,
    min_support: int = 1,
) -> None:
    """Offer each row the entries that it reaches in two steps, by Σ w r / Σ w or by Σ w r.

    Parameters
    ----------
    lists : of the rows; changed in place. Support counts the terms of an entry's sum.
    outer : (n_rows) what each row goes through first: its neighbours with their weights, or its ratings.
    inner : what each of those leads to: ratings, or the entries that count it among their neighbours, with weights.
    known : (n_rows) entries that a row is never offered.
    tie_rank : (n_entries,) distinct; of equal scores the smaller goes first.
    weights_are_outer : whether weights w stand in ``outer`` and ratings r in ``inner``, or the other way round.
        Weights must be positive.
    mean : divide by Σ w.
    min_support : least number of terms.

    Sums are taken in float64 in the order of ``outer`` and rounded to float32 before they are compared.
    """
    none = np.empty(0)
    _offer_weighted(
        lists,
        read_only(outer.row_ptr, np.int64),
        read_only(outer.neighbours, np.int32),
        read_only(none if outer.values is None else outer.values, np.float32),
        read_only(inner.row_ptr, np.int64),
        read_only(inner.neighbours, np.int32),
        read_only(none if inner.values is None else inner.values, np.float32),
        read_only(known.row_ptr, np.int64),
        read_only(known.neighbours, np.int32),
        read_only(tie_rank, np.int64),
        weights_are_outer,
        mean,
        max(min_support, 1),
    )


@njit(cache=True, nogil=True)
def _norms(row_ptr: IntVector, values: FloatVector) -> NDArray[np.float64]:
    norms = np.zeros(len(row_ptr) - 1)
    for row in range(len(norms)):
        total = 0.0
        for place in range(row_ptr[row], row_ptr[row + 1]):
            total += np.float64(values[place]) * np.float64(values[place])
        norms[row] = np.sqrt(total)
    return norms


@njit(cache=True, nogil=True)
def _lengths(rows: FloatMatrix) -> NDArray[np.float64]:
    lengths = np.zeros(rows.shape[0])
    for row in range(rows.shape[0]):
        total = 0.0
        for column in range(rows.shape[1]):
            total += rows[row, column] * rows[row, column]
        lengths[row] = np.sqrt(total)
    return lengths


@njit(cache=True, nogil=True)
def _uncounted_lists(lists: BestLists) -> BestLists:
    """Return the lists as arrays that count no references (``lanes.uncounted``)."""
    return BestLists(
        uncounted(lists.entries),
        uncounted(lists.values),
        uncounted(lists.support),
        uncounted(lists.ties),
        uncounted(lists.sizes),
    )


@njit(cache=True, nogil=True)
def _is_worse(lists: BestLists, row: int, one: int, other: int) -> bool:
    if lists.values[row, one] != lists.values[row, other]:
        return lists.values[row, one] < lists.values[row, other]
    return lists.ties[row, one] > lists.ties[row, other]


@njit(cache=True, nogil=True)
def _swap(lists: BestLists, row: int, one: int, other: int) -> None:
    entry, value = lists.entries[row, one], lists.values[row, one]
    support, tie = lists.support[row, one], lists.ties[row, one]
    lists.entries[row, one], lists.values[row, one] = lists.entries[row, other], lists.values[row, other]
    lists.support[row, one], lists.ties[row, one] = lists.support[row, other], lists.ties[row, other]
    lists.entries[row, other], lists.values[row, other] = entry, value
    lists.support[row, other], lists.ties[row, other] = support, tie


@njit(cache=True, nogil=True)
def _sink(lists: BestLists, row: int, size: int) -> None:
    """Let the first entry sink to its place among the first ``size`` of the heap."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            return
        if child + 1 < size and _is_worse(lists, row, child + 1, child):
            child += 1
        if not _is_worse(lists, row, child, place):
            return
        _swap(lists, row, place, child)
        place = child


@njit(cache=True, nogil=True)
def _offer(lists: BestLists, row: int, entry: int, value: np.float32, support: int, tie: int) -> None:
    size, n = lists.sizes[row], lists.entries.shape[1]
    if size == n:
        least = lists.values[row, 0]
        if value < least or (value == least and tie > lists.ties[row, 0]):
            return
        at = 0
    else:
        at = size
        lists.sizes[row] = size + 1
    lists.entries[row, at] = entry
    lists.values[row, at] = value
    lists.support[row, at] = support
    lists.ties[row, at] = tie
    if size == n:
        _sink(lists, row, n)
        return
    while at > 0 and _is_worse(lists, row, at, (at - 1) // 2):
        _swap(lists, row, at, (at - 1) // 2)
        at = (at - 1) // 2


@njit(cache=True, nogil=True)
def _merge(
    lists: BestLists, entries: NDArray[np.int32], values: NDArray[np.float32], support: int, ties: NDArray[np.int64]
) -> None:
    for row in range(entries.shape[0]):
        for at in range(entries.shape[1]):
            if entries[row, at] >= 0:
                _offer(lists, row, entries[row, at], values[row, at], support, ties[row, at])


@njit(cache=True, nogil=True)
def _sort(lists: BestLists) -> None:
    """Take the worst entry of each heap to its end until nothing is left."""
    for row in range(len(lists.sizes)):
        for last in range(lists.sizes[row] - 1, 0, -1):
            _swap(lists, row, 0, last)
            _sink(lists, row, last)


@njit(cache=True, nogil=True)
def _offer_cosine(
    lists: BestLists,
    row: int,
    dot: float,
    support: int,
    norm: float,
    turned: TurnedRows,
    other: int,
    positive_only: bool,
    shrinkage: float,
) -> None:
    cosine = dot / (norm * turned.norms[other])
    if shrinkage > 0.0:
        cosine *= support / (support + shrinkage)
    similarity = np.float32(cosine)
    if similarity > np.float32(0) or not positive_only:
        _offer(lists, row, turned.first_row + other, similarity, support, turned.tie_rank[other])


@njit(cache=True, nogil=True)
def _hopeless(lists: BestLists, row: int, norm: float) -> float:
    """Return what dot products divided by the other row's norm must reach, to be worth a closer look."""
    least = np.float64(lists.values[row, 0])
    if lists.sizes[row] < lists.entries.shape[1] or not least > 0.0:
        return -np.inf
    return least * norm * NEARLY


@njit(cache=True, nogil=True)
def _add_products(sums: FloatVector, value: float, rows: IntVector, values: FloatVector, first: int, last: int) -> None:
    """Add ``value`` times what some rows have observed to their sums, and 1 to their counts."""
    if len(values) > 0:
        for at in range(first, last):
            slot = np.uint64(rows[at]) * np.uint64(2)
            sums[slot] += value * np.float64(values[at])
            sums[slot + np.uint64(1)] += 1.0
    else:
        for at in range(first, last):
            slot = np.uint64(rows[at]) * np.uint64(2)
            sums[slot] += value
            sums[slot + np.uint64(1)] += 1.0


@njit(cache=True, nogil=True)
def _offer_cosines(
    lists: BestLists, rows: SparseRows, turned: TurnedRows, min_support: int, positive_only: bool, shrinkage: float
) -> None:
    n_turned = len(turned.norms)
    row_ptr, neighbours, values = uncounted(rows.row_ptr), uncounted(rows.neighbours), uncounted(rows.values)
    norms = uncounted(rows.norms)
    turned_ptr, turned_of, turned_values = uncounted(turned.ptr), uncounted(turned.rows), uncounted(turned.values)
    held = _uncounted_lists(lists)
    others = TurnedRows(
        turned.first_row, turned_ptr, turned_of, turned_values, uncounted(turned.norms), uncounted(turned.tie_rank)
    )
    # Dot product and number of common observations of each row of the other block, side by side in one cache line.
    room = np.zeros(2 * n_turned)
    sums = uncounted(room)
    for row in range(len(norms)):
        own = rows.first_row + row - turned.first_row
        visited = 0
        for place in range(row_ptr[row], row_ptr[row + 1]):
            index = neighbours[place]
            if index < 0:
                continue
            value = np.float64(values[place]) if len(values) > 0 else 1.0
            first, last = turned_ptr[index], turned_ptr[index + 1]
            visited += last - first
            _add_products(sums, value, turned_of, turned_values, first, last)
        norm = norms[row]
        least = _hopeless(held, row, norm)
        if visited >= REVISITED_SHARE * n_turned:
            for other in range(n_turned):
                dot, support = sums[2 * other], sums[2 * other + 1]
                if support >= min_support and dot >= least * others.norms[other] and other != own:
                    _offer_cosine(held, row, dot, int(support), norm, others, other, positive_only, shrinkage)
                    least = _hopeless(held, row, norm)
            room[:] = 0.0
            continue
        for place in range(row_ptr[row], row_ptr[row + 1]):
            index = neighbours[place]
            if index < 0:
                continue
            for at in range(turned_ptr[index], turned_ptr[index + 1]):
                near = int(turned_of[at])
                dot, support = sums[2 * near], sums[2 * near + 1]
                if support >= min_support and dot >= least * others.norms[near] and near != own:
                    _offer_cosine(held, row, dot, int(support), norm, others, near, positive_only, shrinkage)
                    least = _hopeless(held, row, norm)
                sums[2 * near] = 0.0
                sums[2 * near + 1] = 0.0


@njit(cache=True, nogil=True)
def _offer_weighted(
    lists: BestLists,
    outer_ptr: IntVector,
    outer: IntVector,
    outer_values: FloatVector,
    inner_ptr: IntVector,
    inner: IntVector,
    inner_values: FloatVector,
    known_ptr: IntVector,
    known: IntVector,
    tie_rank: IntVector,
    weights_are_outer: bool,
    mean: bool,
    min_support: int,
) -> None:
    n_entries = len(tie_rank)
    held, ties = _uncounted_lists(lists), uncounted(tie_rank)
    # Σ w r, Σ w and the number of terms of each entry.
    room = np.zeros((n_entries, 3))
    sums = uncounted(room)
    for row in range(len(outer_ptr) - 1):
        visited = 0
        for place in range(outer_ptr[row], outer_ptr[row + 1]):
            through = outer[place]
            outer_value = np.float64(outer_values[place]) if len(outer_values) > 0 else 1.0
            first, last = inner_ptr[through], inner_ptr[through + 1]
            visited += last - first
            for at in range(first, last):
                inner_value = np.float64(inner_values[at]) if len(inner_values) > 0 else 1.0
                entry = inner[at]
                sums[entry, 0] += outer_value * inner_value
                sums[entry, 1] += outer_value if weights_are_outer else inner_value
                sums[entry, 2] += 1.0
        for place in range(known_ptr[row], known_ptr[row + 1]):
            sums[known[place], 2] = 0.0
        if visited >= REVISITED_SHARE * n_entries:
            for entry in range(n_entries):
                if sums[entry, 2] >= min_support:
                    _offer_score(held, row, entry, sums, ties, mean)
            room[:] = 0.0
            continue
        for place in range(outer_ptr[row], outer_ptr[row + 1]):
            for at in range(inner_ptr[outer[place]], inner_ptr[outer[place] + 1]):
                entry = inner[at]
                if sums[entry, 2] >= min_support:
                    _offer_score(held, row, entry, sums, ties, mean)
                sums[entry, 0] = 0.0
                sums[entry, 1] = 0.0
                sums[entry, 2] = 0.0


@njit(cache=True, nogil=True)
def _offer_score(lists: BestLists, row: int, entry: int, sums: FloatVector, tie_rank: IntVector, mean: bool) -> None:
    score = sums[entry, 0] / sums[entry, 1] if mean else sums[entry, 0]
    _offer(lists, row, entry, np.float32(score), int(sums[entry, 2]), tie_rank[entry])
