"""Frames of any make as Arrow columns of few types, and their ids as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.spark.arrow_codes import sorted_codes

LISTS, HELD_OUT, KNOWN, SLICES = "the recommendations", "the held-out pairs", "the known pairs", "the slices"
PREDICTIONS, RATINGS = "the predictions", "the ratings"
# Each label of an item is a judgement of its own, while all labels of users are one.
MOST_ITEM_LABELS = 100


def is_spark(frame: Any) -> bool:
    """Whether a frame is one of Spark's, classic or Connect."""
    return hasattr(frame, "sparkSession")


class Codes(NamedTuple):
    """Ids of several frames as numbers in the ids' order: ``of`` each frame's rows; ``size`` how many ids there are."""

    of: dict[str, NDArray[np.int64]]
    size: int


def codes_of(tables: Mapping[str, pa.Table], column: str, labels: Labels | None = None) -> Codes:
    """Return the codes of one column of ids in all tables, and in the labels where those are of it (as SLICES).

    Raises
    ------
    DataRefusedError : ids of unlike types.
    """
    columns = {told: table[column] for told, table in tables.items()}
    if labels is not None and labels.key == column:
        columns[SLICES] = labels.ids
    # A frame without rows may have any type.
    filled = {told: ids for told, ids in columns.items() if len(ids)}
    if not filled:
        return Codes(dict.fromkeys(columns, np.empty(0, np.int64)), 0)
    (first, ids), *others = filled.items()
    for told, other in others:
        if other.type != ids.type:
            raise DataRefusedError(
                f"{column} is {_told(ids.type)} in {first} and {_told(other.type)} in {told}: cast one, or no pair "
                "would meet"
            )
    codes, distinct = sorted_codes(
        pa.chunked_array([chunk for one in filled.values() for chunk in one.chunks], ids.type)
    )
    ends = np.cumsum([len(column) for column in columns.values()])
    return Codes(dict(zip(columns, np.split(codes, ends[:-1]), strict=True)), len(distinct))


def _told(kind: pa.DataType) -> str:
    return "text" if pa.types.is_large_string(kind) else str(kind)


class Labels:
    """Labels of users or items: ``key`` the column of ids, ``ids``, and the texts of each column of labels."""

    def __init__(self, key: str, table: pa.Table) -> None:
        self.key = key
        self.ids = table[key]
        self.texts: dict[str, list[str]] = {}
        self._codes: dict[str, NDArray[np.int64]] = {}
        for column in table.column_names:
            if column != key:
                codes, texts = sorted_codes(table[column])
                self._codes[column], self.texts[column] = codes, texts.to_pylist()

    def places(self, ids: Codes) -> dict[str, NDArray[np.int64]]:
        """Return, for each column, the place of each id's text, −1 where it has none."""
        if len(np.unique(ids.of[SLICES])) < len(self.ids):
            raise DataRefusedError(f"a {self.key} stands twice in {SLICES}: give each one row")
        found = {}
        for column, codes in self._codes.items():
            found[column] = np.full(ids.size, -1)
            found[column][ids.of[SLICES]] = codes
        return found


def labels_of(slices: Any) -> Labels:
    """Return the labels of a frame.

    Raises
    ------
    DataRefusedError : the columns are not those of `label_columns`, or hold no labels.
    """
    key, columns = label_columns(column_names(slices, SLICES))
    table = arrow_columns(slices, SLICES, ids=(key,), others=columns)
    for column in columns:
        kind = table[column].type
        if not (pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise DataRefusedError(f"{SLICES}: column {column} is {kind}; labels are text, whole numbers or booleans")
        at = table.column_names.index(column)
        table = table.set_column(at, column, table[column].cast(pa.large_string()))
    labels = Labels(key, table)
    if key == "item_id":
        refuse_many_labels(max(map(len, labels.texts.values())))
    return labels


def refuse_many_labels(n_labels: int) -> None:
    """Refuse more labels of items in one column than can be judged one by one.

    Raises
    ------
    DataRefusedError : there are more.
    """
    if n_labels > MOST_ITEM_LABELS:
        raise DataRefusedError(f"{SLICES}: {n_labels} labels of items are more than {MOST_ITEM_LABELS}; join some")


def label_columns(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the column of ids of a frame of labels, and its columns of labels.

    Raises
    ------
    DataRefusedError : it has both user_id and item_id, neither, or no label.
    """
    keys = [name for name in ("user_id", "item_id") if name in names]
    columns = [name for name in names if name not in keys]
    if len(keys) != 1 or not columns:
        raise DataRefusedError(
            f"{SLICES} need user_id or item_id, one of them, and a column of labels; they have {', '.join(names)}"
        )
    return keys[0], columns


def place_column(frame: Any) -> str:
    """Return the column that orders recommendations: rank, or else score.

    Raises
    ------
    DataRefusedError : there is neither.
    """
    names = column_names(frame, LISTS)
    if "rank" not in names and "score" not in names:
        raise _missing("rank or score", LISTS, names)
    return "rank" if "rank" in names else "score"


def rating_columns(predicted: Any, actual: Any) -> tuple[str, str]:
    """Return the columns of predictions and of ratings.

    Raises
    ------
    DataRefusedError : one is missing.
    """
    found = []
    for frame, told, names in (
        (predicted, PREDICTIONS, ("prediction", "predicted")),
        (actual, RATINGS, ("rating", "value")),
    ):
        there = column_names(frame, told)
        column = next((name for name in names if name in there), None)
        if column is None:
            raise _missing(" or ".join(names), told, there)
        found.append(column)
    return found[0], found[1]


def column_names(frame: Any, told: str) -> list[str]:
    """Return the names of a frame's columns.

    Raises
    ------
    ConfigError : it is no frame.
    """
    if isinstance(frame, (pa.Table, pa.RecordBatch)):
        return list(frame.column_names)
    if hasattr(frame, "columns"):
        return [str(name) for name in frame.columns]
    if hasattr(frame, "__arrow_c_stream__"):
        return list(pa.table(frame).column_names)
    raise ConfigError(f"{told}: a pandas, Arrow, Polars or Spark frame is needed, got {type(frame).__name__}")


def _missing(column: str, told: str, names: Sequence[str]) -> DataRefusedError:
    return DataRefusedError(
        f"{told} have no column {column}; the frame has {', '.join(names) or 'no columns'}: rename the right one"
    )


def arrow_columns(
    frame: Any,
    told: str,
    *numbers: str,
    ids: Sequence[str] = ("user_id", "item_id"),
    others: Sequence[str] = (),
) -> pa.Table:
    """Return columns of a frame in memory, in few types: ids without nulls, numbers, and others as they are.

    Raises
    ------
    ConfigError : it is no frame.
    DataRefusedError : a column is missing or of several kinds, an id is null or nested, a number is none.
    """
    names = column_names(frame, told)
    wanted = [*ids, *numbers, *others]
    for column in wanted:
        if column not in names:
            raise _missing(column, told, names)
    columns = {}
    for column in wanted:
        try:
            columns[column] = _plain(_column(frame, column))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataRefusedError(f"{told}: {column} holds values of several kinds: cast it to one") from error
    for column in ids:
        if columns[column].null_count:
            raise DataRefusedError(f"{columns[column].null_count} rows of {told} have no {column}: leave them out")
        if pa.types.is_nested(columns[column].type):
            raise DataRefusedError(
                f"{told}: {column} is {columns[column].type}; ids are text, numbers or other scalars"
            )
    for column in numbers:
        kind = columns[column].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            if len(columns[column]):
                raise DataRefusedError(f"{told}: {column} is {_told(kind)}; it must be a number")
            columns[column] = pa.chunked_array([], pa.float64())
    return pa.table(columns)


def plain_table(frame: Any) -> pa.Table:
    """Return a whole frame in memory as Arrow, in the types of `arrow_columns`."""
    return arrow_columns(frame, "a frame", ids=(), others=column_names(frame, "a frame"))


def _column(frame: Any, column: str) -> pa.ChunkedArray:
    if isinstance(frame, pd.DataFrame):
        array = pa.Array.from_pandas(frame[column])
    else:
        array = (frame if isinstance(frame, (pa.Table, pa.RecordBatch)) else pa.table(frame)).column(column)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in the one type that stands for its kind: int64, large text, float64; others as they are."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column, kind = column.cast(kind.storage_type), kind.storage_type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return column.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column.cast(pa.float64()) if pa.types.is_floating(kind) else column
