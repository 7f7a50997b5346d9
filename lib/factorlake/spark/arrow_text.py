"""Arrow values as text, so that records of every format have fields of one kind; text as hashes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from factorlake.kernels.hashing import hash_bytes

_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)


def hash_strings(ids: pa.Array) -> NDArray[np.int64]:
    """Return the hash of each id of an Arrow array of strings without nulls, as `hash_ids` does, reading them where
    they lie."""
    if not len(ids):
        return np.empty(0, np.int64)
    wide = ids.cast(pa.large_string())
    _, offsets, text = wide.buffers()
    own = np.frombuffer(offsets, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    return hash_bytes(np.frombuffer(text or b"", np.uint8), own)


def distinct_values(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct values that occur in a column, and the place of each row's among them; −1 for null.

    A column of dictionaries stands for the values in them, of which some may be unused, or stand there twice.
    """
    if not pa.types.is_dictionary(column.type):
        encoded = column.dictionary_encode().combine_chunks()
        return encoded.dictionary, pc.fill_null(encoded.indices, -1).to_numpy()
    stored = column.unify_dictionaries().combine_chunks()
    values = stored.dictionary.dictionary_encode()
    codes = pc.fill_null(stored.indices, -1).to_numpy()
    # The place after the last, which is that of null, is asked for by −1.
    place = np.append(values.indices.to_numpy(), np.int32(-1))
    occurs = np.zeros(len(place), np.bool_)
    occurs[codes] = True
    is_used = np.zeros(len(values.dictionary), np.bool_)
    is_used[place[:-1][occurs[:-1]]] = True
    left = np.append((np.cumsum(is_used) - 1).astype(np.int32), np.int32(-1))
    return values.dictionary.filter(pa.array(is_used)), left[place][codes]


def column_as_text(column: pa.Array) -> list[str | None]:
    """Return a column's values as text: shortest round trip for floats, ISO 8601 for times, JSON for nested
    values. Bytes that are no UTF-8 stand in it as lone surrogates, so that no two values become one."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        # A UUID is its text, not its bytes.
        return [None if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            # Not every writer keeps to UTF-8.
            column, kind = _bytes_of(column), pa.large_binary()
    if pa.types.is_floating(kind):
        return [None if value is None else str(value) for value in _floats(column)]
    if pa.types.is_timestamp(kind):
        text = pc.cast(column.cast(pa.timestamp(kind.unit)), pa.string()).to_pylist()
        return text if kind.tz is None else [None if value is None else f"{value}Z" for value in text]
    if any(is_kind(kind) for is_kind in _BYTES):
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in column.to_pylist()]
    if pa.types.is_nested(kind):
        try:
            return [_json(value) for value in column.to_pylist()]
        except (OverflowError, ValueError):
            return [_nested(column.slice(row, 1)) for row in range(len(column))]
    try:
        return pc.cast(column, pa.string()).to_pylist()
    except pa.ArrowNotImplementedError:
        return [None if value is None else str(value) for value in column.to_pylist()]


def _bytes_of(column: pa.Array) -> pa.Array:
    """Return the bytes of a column of text, whatever they are."""
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.binary_view())
    return column.cast(pa.large_binary())


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, default=str)


def _nested(one: pa.Array) -> str | None:
    try:
        return _json(one[0].as_py())
    except (OverflowError, ValueError):
        # A time within it that Python cannot hold, or text that is no UTF-8: as Arrow shows it.
        return str(one)


def _floats(column: pa.Array) -> list[Any]:
    """Return Python floats; single precision stays single, so that 0.1 is told as 0.1."""
    if pa.types.is_float64(column.type):
        return column.to_pylist()
    values = column.to_numpy(zero_copy_only=False)
    return [value if valid else None for value, valid in zip(values, column.is_valid().to_pylist(), strict=True)]
