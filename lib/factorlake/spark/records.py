"""Bytes of one file to records: text, fields, defect, id. Pure Python and Arrow, so that it is tested without
Java.

A record that cannot be read is a record all the same: its text is kept, and its defect says what is wrong
with it. A file that cannot be read to its end raises `UnreadableFileError`; nothing else here raises on any
input.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from factorlake.errors import DataRefusedError
from factorlake.spark.arrow_text import column_as_text

Fields = dict[str, str | None]

WRONG_NUMBER_OF_FIELDS = "wrong_number_of_fields"
BAD_QUOTING = "bad_quoting"
BROKEN_JSON = "broken_json"
NOT_AN_OBJECT = "not_an_object"
DUPLICATE_KEY = "duplicate_key"
WRONG_ENCODING = "wrong_encoding"

# A lone quote opens a field that never closes. Looking no further than this for its end keeps the damage to
# one
# line and the search from becoming quadratic.
MAX_LINES_OF_RECORD = 256
PARQUET_ROWS = 20_000


class UnreadableFileError(DataRefusedError):
    """A file that cannot be read to its end."""


class Record(NamedTuple):
    """One record of a file. ``fields`` is None when the text could not be split; ``defect`` is None when it
    is whole."""

    position: int
    raw: str
    fields: Fields | None
    defect: str | None
    event_id: str


@dataclass(frozen=True)
class FileFormat:
    """How the bytes of one file are read; see `IngestSettings` for the meaning of each part."""

    kind: Literal["csv", "json", "parquet"]
    packed: bool = False
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    column_names: tuple[str, ...] = ()
    encoding: str = "utf-8"


def unpack(content: bytes, packed: bool) -> bytes:
    """Return the file's bytes, gunzipped when ``packed``. UnreadableFileError when they are no whole gzip
    file."""
    if not packed or not content:
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise UnreadableFileError(f"not a whole gzip file ({error})") from error


def columns_of(content: bytes, form: FileFormat) -> list[str] | None:
    """Return the columns a file declares: a CSV header, a Parquet schema; None for JSON lines and empty
    files."""
    if form.kind == "json" or not content:
        return None
    if form.kind == "parquet":
        return _distinct(_open_parquet(content).schema_arrow.names)
    if not form.header:
        return list(form.column_names)
    # The header is nearly always in the first piece; decoding all of a large file for it would double the
    # work.
    for size in (1 << 16, len(content)):
        lines = _lines(_decode(content[:size], form.encoding)[0])
        first = next(_csv_rows(lines, form), None)
        if first is not None and (first.lines < len(lines) or size >= len(content)):
            return _header(first)
    return None


def parse(content: bytes, form: FileFormat) -> Iterator[Record]:
    """Return the records of a file's unpacked bytes, in order, positions from 0.

    Blank lines and the header are no records. An empty file has none. Of a CSV record with too few or too
    many fields, a quote that does not close or a broken JSON line the text is kept and the defect named.

    Raises
    ------
    UnreadableFileError : a Parquet file that cannot be read. Text never raises.
    """
    if not content:
        return iter(())
    if form.kind == "parquet":
        return _parse_parquet(content)
    text, damaged = _decode(content, form.encoding)
    lines = _lines(text)
    return _parse_csv(lines, form, damaged) if form.kind == "csv" else _parse_json(lines, damaged)


def fields_id(fields: Fields) -> str:
    """Return the 128-bit id, in hex, of a whole record: a hash of its sorted names and values, whatever its
    format. A null field is as none: rows of a table are the same record before and after it gets a column."""
    given = fields.items() if None not in fields.values() else [pair for pair in fields.items() if pair[1] is not None]
    return hashlib.blake2b(
        _encode(sorted(given)).encode("utf-8", "replace"), digest_size=16, person=b"fields"
    ).hexdigest()


def text_id(raw: str) -> str:
    """Return the 128-bit id, in hex, of a broken record: a hash of its bytes, never equal to a whole
    record's."""
    return hashlib.blake2b(raw.encode("utf-8", "surrogateescape"), digest_size=16, person=b"raw").hexdigest()


def text_of(fields: Fields) -> str:
    """Return the text of a record that has none of its own: its fields as JSON."""
    return _encode(fields)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _Object(list):
    """The pairs of a JSON object, told from an array by their type."""


# Numbers stay the text they were: 17850.0 and 1e309 must not pass through a float, nor a long integer through
# int().
_decoder = json.JSONDecoder(object_pairs_hook=_Object, parse_float=str, parse_int=str, parse_constant=str)


def _decode(content: bytes, encoding: str) -> tuple[str, bool]:
    """Return the text and whether some bytes did not fit the encoding (they stand in it as lone
    surrogates)."""
    if content.startswith(b"\xef\xbb\xbf") and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        content = content[3:]
    try:
        return content.decode(encoding), False
    except UnicodeDecodeError:
        pass
    try:
        return content.decode(encoding, "surrogateescape"), True
    except UnicodeDecodeError:
        # UTF-16 and UTF-32 know no escape for a single byte: mark what they replace in the same way.
        return content.decode(encoding, "replace").replace("\ufffd", "\udcff"), True


def _lines(text: str) -> list[str]:
    if "\n" not in text and "\r" in text:
        text = text.replace("\r", "\n")
    return text.split("\n")


def _is_damaged(text: str) -> bool:
    """Whether there are lone surrogates in a text, which no encoding can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _mended(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


def _broken(position: int, raw: str, defect: str, fields: Fields | None = None) -> Record:
    if fields is not None:
        fields = {_mended(name): None if value is None else _mended(value) for name, value in fields.items()}
    return Record(position, _mended(raw), fields, defect, text_id(raw))


class _Row(NamedTuple):
    raw: str
    values: list[str] | None
    lines: int


def _csv_rows(lines: list[str], form: FileFormat, n_columns: int | None = None) -> Iterator[_Row]:
    """Split lines into rows; a row spans lines only when its quotes close and it then has the right
    fields."""
    # Python's own limit of 128 KiB a field would call a long field a fault of its quotes.
    csv.field_size_limit(1 << 31)
    blank_is_data = form.delimiter.isspace()
    index, n_lines = 0, len(lines)
    while index < n_lines:
        line = lines[index].removesuffix("\r")
        if not line or (line.isspace() and not blank_is_data):
            index += 1
            continue
        if form.quote not in line:
            yield _Row(line, line.split(form.delimiter), index + 1)
            index += 1
            continue
        stop = min(n_lines, index + MAX_LINES_OF_RECORD)
        reader = csv.reader(
            (lines[i] + "\n" for i in range(index, stop)),
            delimiter=form.delimiter,
            quotechar=form.quote,
            strict=True,
        )
        try:
            values: list[str] | None = next(reader)
        except (csv.Error, StopIteration):
            values = None
        used = reader.line_num if values is not None else 1
        if used > 1 and values is not None and n_columns is not None and len(values) != n_columns:
            values, used = None, 1
        yield _Row("\n".join(lines[index : index + used]).removesuffix("\r"), values, index + used)
        index += used


def _header(row: _Row) -> list[str]:
    names = row.values if row.values is not None else [row.raw]
    return _distinct([_mended(name).strip() for name in names])


def _distinct(names: Iterable[str]) -> list[str]:
    """Name unnamed columns by number, and the second of two equal names NAME_2."""
    taken: set[str] = set()
    result = []
    for number, name in enumerate(names, start=1):
        name = name or f"column_{number}"
        unique, copy = name, 2
        while unique in taken:
            unique, copy = f"{name}_{copy}", copy + 1
        taken.add(unique)
        result.append(unique)
    return result


def _parse_csv(lines: list[str], form: FileFormat, damaged: bool) -> Iterator[Record]:
    if form.header:
        first = next(_csv_rows(lines, form), None)
        if first is None:
            return
        columns, lines = _header(first), lines[first.lines :]
    else:
        columns = list(form.column_names)
    n_columns = len(columns)
    for position, row in enumerate(_csv_rows(lines, form, n_columns)):
        if row.values is None:
            yield _broken(position, row.raw, BAD_QUOTING)
        elif len(row.values) != n_columns:
            yield _broken(position, row.raw, WRONG_NUMBER_OF_FIELDS)
        else:
            fields: Fields = dict(zip(columns, row.values, strict=True))
            if damaged and _is_damaged(row.raw):
                yield _broken(position, row.raw, WRONG_ENCODING, fields)
            else:
                yield Record(position, row.raw, fields, None, fields_id(fields))


def _parse_json(lines: list[str], damaged: bool) -> Iterator[Record]:
    position = 0
    for line in lines:
        line = line.removesuffix("\r")
        if not line or line.isspace():
            continue
        yield _json_record(position, line, damaged)
        position += 1


def _json_record(position: int, line: str, damaged: bool) -> Record:
    try:
        pairs = _decoder.decode(line)
    except (ValueError, RecursionError):
        return _broken(position, line, BROKEN_JSON)
    if type(pairs) is not _Object:
        return _broken(position, line, NOT_AN_OBJECT)
    if any(isinstance(value, list) for _, value in pairs):
        pairs = _nested_as_text(line, pairs)
    fields: Fields = {name: _scalar(value) for name, value in pairs}
    if len(fields) != len(pairs):
        return _broken(position, line, DUPLICATE_KEY)
    # Beside bytes that did not fit, an escape such as \ud800 makes text that no encoding can write.
    if (damaged or "\\u" in line) and (
        _is_damaged(line) or any(_is_damaged(name) or _is_damaged(value or "") for name, value in fields.items())
    ):
        return _broken(position, line, WRONG_ENCODING, fields)
    return Record(position, line, fields, None, fields_id(fields))


def _scalar(value: Any) -> str | None:
    if value is True:
        return "true"
    if value is False:
        return "false"
    return value


def _nested_as_text(line: str, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Replace arrays and objects by the text they have in ``line``, which is known to be a JSON object."""
    result = []
    at = WHITESPACE.match(line, 0).end() + 1
    for name, value in pairs:
        at = WHITESPACE.match(line, at).end()
        _, at = scanstring(line, at + 1, True)
        at = WHITESPACE.match(line, WHITESPACE.match(line, at).end() + 1).end()
        start = at
        _, at = _decoder.raw_decode(line, at)
        result.append((name, line[start:at] if isinstance(value, list) else value))
        at = WHITESPACE.match(line, at).end() + 1
    return result


def _open_parquet(content: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableFileError(f"not a readable Parquet file ({_first_line(error)})") from error


def check_parquet(content: bytes) -> None:
    """Decode every page once. UnreadableFileError when one cannot be."""
    for _ in _parse_parquet(content, check_only=True):
        pass


def _parse_parquet(content: bytes, check_only: bool = False) -> Iterator[Record]:
    position = 0
    file = _open_parquet(content)
    try:
        for batch in file.iter_batches(PARQUET_ROWS):
            if not check_only:
                yield from records_of(batch, range(position, position + batch.num_rows))
            position += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableFileError(f"not a readable Parquet file ({_first_line(error)})") from error


def records_of(batch: pa.RecordBatch, positions: Iterable[int]) -> Iterator[Record]:
    """Return the rows of an Arrow batch as records: every value as text, the text of the record its JSON. A row with
    text that is no UTF-8 is broken."""
    names = _distinct(batch.schema.names)
    columns = [column_as_text(column) for column in batch.columns]
    for position, *values in zip(positions, *columns, strict=True):
        fields: Fields = dict(zip(names, values, strict=True))
        raw = text_of(fields)
        if not raw.isascii() and _is_damaged(raw):
            yield _broken(position, raw, WRONG_ENCODING, fields)
        else:
            yield Record(position, raw, fields, None, fields_id(fields))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
