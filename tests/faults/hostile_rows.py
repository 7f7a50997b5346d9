"""Hostile input, class by class and format by format, and what must become of each: TEST 2.1's corpus.

Every class has a case in each format: one small file with the outcome of each of its records, or the reason why the
class cannot occur there. docs/quality.md shows the same table.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from factorlake.pipelines import ingest_ledger as ledger

Form = Literal["csv", "json", "parquet"]
TEXTS: tuple[Form, ...] = ("csv", "json")
FORMS: tuple[Form, ...] = (*TEXTS, "parquet")
COLUMNS = ("user_id", "item_id", "value", "event_time")
NOON = "2024-01-01T12:00:00Z"
LATEST = "2026-01-01T00:00:00Z"
"""`events.latest` of the runs on the corpus: an event after it is impossible."""
TIME_FORMATS = ["iso", "epoch_s"]
"""`events.time_formats` of the runs on the corpus."""
REFUSED = "refused"
"""The whole run ends with code 3, and nothing of the batch is taken."""
BROKEN, NO_USER, NO_ITEM = ("broken_record",), ("missing_user_id",), ("missing_item_id",)


@dataclass(frozen=True)
class Expected:
    """What must become of one record."""

    reasons: tuple[str, ...] = ()
    """Of its refusal; none: it is accepted."""
    user: str | None = None
    """Id of the user of an accepted record; None: whatever the record's text says."""
    value: float | None = None
    time: datetime | None = None
    is_copy: bool = False
    """An exact copy of a record that the batch has already."""
    raw: str | None = None
    """Text that must be kept: the whole record of CSV and JSON, a part of that of Parquet."""


@dataclass(frozen=True)
class Case:
    """One class of hostile input in one format."""

    name: str
    form: Form
    content: bytes = b""
    records: tuple[Expected, ...] = ()
    outcome: str = ledger.INGESTED
    """Of the file, as the ledger tells it, or `REFUSED`."""
    ending: str = ""
    told: str = ""
    """Words in what the job or the ledger says of the file."""
    why_not: str = ""
    """Why there is no such case; else empty."""

    @property
    def file(self) -> str:
        return self.name.replace(" ", "_") + (self.ending or f".{self.form}")

    def summary(self) -> str:
        """What the table of outcomes says of it."""
        if self.why_not:
            return f"cannot occur: {self.why_not}"
        if self.outcome == REFUSED:
            return "the run is refused"
        if self.outcome != ledger.INGESTED:
            return f"file told as {self.outcome}"
        if not self.records:
            return "no record"
        told = ("copy" if one.is_copy else ", ".join(one.reasons) or "accepted" for one in self.records)
        return "; ".join(text for text, _ in groupby(told))


def corpus() -> list[Case]:
    """Return every case. Each class has one in each format."""
    return [*_ids(), *_values(), *_times(), *_structures(), *_files()]


def outcome_table() -> str:
    """Return the table of outcomes for the page on data quality: a class a row, a format a column."""
    cases = {(case.name, case.form): case.summary() for case in corpus()}
    lines = ["| class | CSV | JSON lines | Parquet |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | " + " | ".join(cases[name, form] for form in FORMS) + " |"
        for name in dict.fromkeys(name for name, _ in cases)
    ]
    return "\n".join(lines)


def _event(name: str, form: Form, number: int = 0) -> dict[str, Any]:
    """A good event; the item tells class and format, so that no two events of the corpus are alike."""
    return {"user_id": "u", "item_id": f"{name} {form} {number}", "value": "1", "event_time": NOON}


def csv_line(cells: Sequence[str]) -> str:
    """Return one CSV record without its line end."""
    buffer = io.StringIO()
    # It quotes line ends only if one ends its records.
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().removesuffix("\n")


def csv_bytes(lines: Sequence[str | bytes], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return a CSV file of records that are written already."""
    return b"".join(_bytes(line) + b"\n" for line in [csv_line(columns), *lines])


def json_bytes(lines: Sequence[str | bytes]) -> bytes:
    """Return a file of JSON lines."""
    return b"".join(_bytes(line) + b"\n" for line in lines)


def parquet_bytes(columns: Mapping[str, Any], **options: Any) -> bytes:
    """Return a Parquet file of columns (lists or Arrow arrays)."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, **options)
    return buffer.getvalue()


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _text(line: str | bytes) -> str:
    """A line as it must be kept: a byte that is no UTF-8 becomes U+FFFD."""
    return line if isinstance(line, str) else line.decode("utf-8", "replace")


def _in_csv(name: str, *records: tuple[str | bytes, Expected], **more: Any) -> Case:
    kept = tuple(replace(expected, raw=_text(line)) for line, expected in records)
    return Case(name, "csv", csv_bytes([line for line, _ in records]), kept, **more)


def _in_json(name: str, *records: tuple[str | bytes, Expected], **more: Any) -> Case:
    kept = tuple(replace(expected, raw=_text(line)) for line, expected in records)
    return Case(name, "json", json_bytes([line for line, _ in records]), kept, **more)


def _in_parquet(name: str, columns: Mapping[str, Any], *records: Expected, **options: Any) -> Case:
    n_rows = max(len(records), 1)
    events = [_event(name, "parquet", number) for number in range(n_rows)]
    good = {column: [event[column] for event in events] for column in COLUMNS}
    return Case(name, "parquet", parquet_bytes({**good, **columns}, **options), records)


def _none(name: str, form: Form, why: str) -> Case:
    return Case(name, form, why_not=why)


def _cells(
    name: str,
    column: str,
    *texts: tuple[str | None, Expected],
    json_as: Sequence[str] | None = None,
    arrow: pa.Array | None = None,
) -> Iterator[Case]:
    """The three cases of a class that lies in the text of one cell, a record for each text.

    ``json_as`` writes the cell in JSON in a way of its own (a number), ``arrow`` the Parquet column.
    """

    def event(form: Form, number: int) -> dict[str, Any]:
        return {**_event(name, form, number), column: texts[number][0]}

    def in_json(number: int) -> str:
        if json_as is None:
            return json.dumps(event("json", number), ensure_ascii=False)
        return json.dumps(event("json", number)).replace(
            f'"{column}": {json.dumps(texts[number][0])}', f'"{column}": {json_as[number]}'
        )

    numbers, expected = range(len(texts)), [one for _, one in texts]
    yield _in_csv(name, *((csv_line([*event("csv", n).values()]), expected[n]) for n in numbers))
    yield _in_json(name, *((in_json(n), expected[n]) for n in numbers))
    values = [text for text, _ in texts] if arrow is None else arrow
    kept = [one if arrow is not None else replace(one, raw=json.dumps(text, ensure_ascii=False)) for text, one in texts]
    yield _in_parquet(name, {column: values}, *kept)


def _user(text: str, kept: str | None = None) -> tuple[str, Expected]:
    return text, Expected(user=text if kept is None else kept)


def _ids() -> Iterator[Case]:
    """Ids are text and stay what they were; white space around them goes."""

    def ids(name: str, *texts: str, **more: Any) -> Iterator[Case]:
        return _cells(name, "user_id", *map(_user, texts), **more)

    yield from ids("id with leading zeros", "007", "7")
    yield from ids("id in scientific notation", "1e3", "1000", json_as=["1e3", "1000"])
    yield from ids("id with a plus sign", "+1", "1")
    yield from ids("id of 2^31", str(2**31), json_as=[str(2**31)], arrow=pa.array([2**31], pa.uint32()))
    yield from ids("id of 2^63", str(2**63), json_as=[str(2**63)], arrow=pa.array([2**63], pa.uint64()))
    yield from ids("id past float64", str(2**53 + 1), json_as=[str(2**53 + 1)], arrow=pa.array([2**53 + 1]))
    yield from ids("negative id", "-1", json_as=["-1"], arrow=pa.array([-1], pa.int32()))
    yield from ids("id that is a float", "17850.0", json_as=["17850.0"], arrow=pa.array([17850.0]))
    yield from _cells("trailing space in an id", "user_id", _user("guest ", "guest"), _user("\u00a0guest", "guest"))
    yield from _cells("trailing newline in an id", "user_id", _user("guest\n", "guest"))
    yield from ids("newline within an id", "gu\nest")
    yield from ids("look-alike ids", "Anna", "\u0410nna", "\uff21nna")
    yield from ids("composed and decomposed id", "caf\u00e9", "cafe\u0301")
    yield from ids("emoji id", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467")
    yield from ids("right-to-left mark in an id", "\u200fguest", "\u202etseug")
    yield from ids("zero-width space in an id", "guest\u200b", "guest")
    yield from ids("the text null", "null", "None", "NaN", "\\N")
    yield from ids("id like a formula", "=1+1", "@SUM(A1)", "-2+3")
    yield from ids("id like a path", "../../etc/passwd", "file:/x", "a%00b")
    yield from ids("id like code", "'; DROP TABLE x; --", "`u`", "${user}", "{{7*7}}", "<b>")
    yield from ids("id like a prototype", "__proto__", "constructor", "toString")
    yield from ids("lone quote in an id kept quoted", 'gu"est', '"')
    yield from _cells("null id", "user_id", (None, Expected(NO_USER)))
    yield from _cells("empty id", "user_id", ("", Expected(NO_USER)))
    yield from _cells("id of white space", "user_id", (" \t\u00a0\u3000", Expected(NO_USER)))
    yield from _cells("id of 10 MB", "user_id", ("x" * 10_000_000, Expected(("id_too_long",))))
    yield from ids("id of 1,024 characters", "\U0001f600" * 1024)
    name, nul = "NUL byte in an id", "gu\x00est"
    as_csv, _, as_parquet = ids(name, nul)
    bare = json.dumps(_event(name, "json")).replace('"u"', '"gu\x00est"')
    escaped = json.dumps({**_event(name, "json", 1), "user_id": nul})
    yield as_csv
    yield _in_json(name, (bare, Expected(BROKEN)), (escaped, Expected(user=nul)))
    yield replace(as_parquet, records=(Expected(user=nul, raw='"gu\\u0000est"'),))


def _values() -> Iterator[Case]:
    infinite, no_number = Expected(("value_not_finite",)), Expected(("value_not_a_number",))

    def words(name: str, *texts: str, expected: Expected = no_number, **more: Any) -> Iterator[Case]:
        return _cells(name, "value", *((text, expected) for text in texts), **more)

    yield from words("value NaN", "NaN", expected=infinite, json_as=["NaN"], arrow=pa.array([float("nan")]))
    both = pa.array([float("inf"), float("-inf")])
    yield from words(
        "infinite value", "Infinity", "-Infinity", expected=infinite, json_as=["Infinity", "-Infinity"], arrow=both
    )
    yield from words("value 1e309", "1e309", expected=infinite, json_as=["1e309"])
    yield from words(
        "value past float32",
        "3.5e38",
        "-3.5e38",
        expected=infinite,
        json_as=["3.5e38", "-3.5e38"],
        arrow=pa.array([3.5e38, -3.5e38]),
    )
    zero = Expected(value=0.0)
    yield from words("value -0.0", "-0.0", expected=zero, json_as=["-0.0"], arrow=pa.array([-0.0]))
    yield from words("value 1e-400", "1e-400", expected=zero, json_as=["1e-400"])
    yield from words("value of a million digits", "1" * 1_000_000, expected=infinite, json_as=["1" * 1_000_000])
    yield from words("value in words", "five", "--", "n/a")
    yield from words("value with a decimal comma", "1,5", "1.234,5")
    yield from words("value of a programming language", "0x10", "1_000", "5d", "1f", "1e", "0b1")
    yield from words("value in other digits", "\u0661\u0662", "\uff11")
    yield from words("value with a unit", "5 \u20ac", "5%", "$5")
    yield from words("boolean value", "true", json_as=["true"], arrow=pa.array([True]))
    missing = Expected(("missing_value",))
    yield from _cells("null value", "value", (None, missing))
    yield from _cells("empty value", "value", ("", missing), (" ", missing))
    five = Expected(value=5.0)
    yield from _cells("value as text", "value", ("5", five), (" 5.0 ", five), ("+5", five), ("5e0", five))
    name, why = "decimal value", "its numbers are text, as in the classes above"
    yield _none(name, "csv", why)
    yield _none(name, "json", why)
    yield _in_parquet(name, {"value": pa.array([Decimal("5.000")])}, Expected(value=5.0, raw='"5.000"'))


def _times() -> Iterator[Case]:
    impossible, unreadable = Expected(("impossible_time",)), Expected(("unreadable_time",))
    zoneless = Expected(("time_without_zone",))

    def times(name: str, expected: Expected, *texts: str, **more: Any) -> Iterator[Case]:
        return _cells(name, "event_time", *((text, expected) for text in texts), **more)

    yield from times("time in the future", impossible, "2999-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
    yield from times("time in 1970", impossible, "1970-01-01T00:00:00Z", "0", "0001-01-01T00:00:00Z")
    yield from times("seconds and milliseconds", impossible, "1704110400000", json_as=["1704110400000"])
    at_noon = Expected(time=datetime(2024, 1, 1, 12, tzinfo=UTC))
    yield from times("time in seconds", at_noon, "1704110400", json_as=["1704110400"], arrow=pa.array([1704110400]))
    yield from times("time in a daylight-saving gap", zoneless, "2024-03-31T02:30:00")
    gap = Expected(time=datetime(2024, 3, 31, 1, 30, tzinfo=UTC))
    yield from times("time beside a daylight-saving gap", gap, "2024-03-31T02:30:00+01:00", "2024-03-31T03:30:00+02:00")
    yield from times("day that is not there", unreadable, "2024-02-30T00:00:00Z", "2023-02-29", "2024-13-01")
    yield from times("leap second", unreadable, "2016-12-31T23:59:60Z")
    yield from times("year past four digits", unreadable, "10000-01-01T00:00:00Z", "+12024-01-01T00:00:00Z")
    yield from times("time in words", unreadable, "yesterday", "now", "12:30", "01/02/2024")
    yield from times("year for a time", impossible, "2024", json_as=["2024"], arrow=pa.array([2024], pa.int16()))
    yield from _cells("null time", "event_time", (None, Expected(("missing_time",))))
    nanos = datetime(2024, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
    exact = pa.array([1704110400_000001_999], pa.timestamp("ns", "UTC"))
    yield from times("nanoseconds", Expected(time=nanos), "2024-01-01T12:00:00.000001999Z", arrow=exact)
    name, why = "INT96 time", "a type of Parquet's"
    yield _none(name, "csv", why)
    yield _none(name, "json", why)
    legacy = {"event_time": pa.array([datetime(2024, 1, 1, 12)])}
    yield _in_parquet(name, legacy, zoneless, use_deprecated_int96_timestamps=True)
    name = "date without a time"
    yield from times(name, zoneless, "2024-01-01", arrow=pa.array([date(2024, 1, 1)]))


def _structures() -> Iterator[Case]:
    good = Expected()

    def line(name: str, form: Form, number: int = 0, **cells: Any) -> str:
        event = {**_event(name, form, number), **cells}
        return csv_line([*event.values()]) if form == "csv" else json.dumps(event, ensure_ascii=False)

    name = "field missing from a record"
    without = _event(name, "json")
    del without["item_id"]
    yield _in_csv(name, (f"u,{name},1", Expected(BROKEN)), (line(name, "csv"), good))
    yield _in_json(name, (json.dumps(without), Expected(NO_ITEM)), (line(name, "json"), good))
    yield _none(name, "parquet", "every row has every column")
    name = "field too many in a record"
    yield _in_csv(name, (line(name, "csv") + ",more", Expected(BROKEN)), (line(name, "csv", 1), good))
    yield _in_json(name, (line(name, "json", __proto__="x"), good), (line(name, "json", 1), good))
    yield _in_parquet(name, {"more": ["x"]}, good)
    name = "lone quote"
    yield _in_csv(
        name, ('"u,i,1,' + NOON, Expected(BROKEN)), (line(name, "csv"), good), ('"u"x,i,1,' + NOON, Expected(BROKEN))
    )
    yield _in_json(name, ('{"user_id": "u, "item_id": "i"}', Expected(BROKEN)), (line(name, "json"), good))
    yield _none(name, "parquet", "text is not quoted")
    name = "bytes that are no UTF-8"
    bad = "caf\u00e9".encode("latin-1")
    yield _in_csv(name, (b"u,%s,1,%s" % (bad, NOON.encode()), Expected(BROKEN)), (line(name, "csv"), good))
    yield _in_json(
        name,
        (line(name, "json", user_id="X").encode().replace(b"X", bad), Expected(BROKEN)),
        (line(name, "json", 1), good),
    )
    latin = pa.array([bad, b"tea"]).cast(pa.binary()).view(pa.string())
    yield _in_parquet(name, {"user_id": latin}, Expected(BROKEN, raw="caf\ufffd"), Expected(user="tea"))
    name = "record cut off"
    yield _in_csv(name, (line(name, "csv"), good), ("u,i", Expected(BROKEN)))
    yield _in_json(name, (line(name, "json"), good), (line(name, "json", 1)[:-9], Expected(BROKEN)))
    yield _none(name, "parquet", "a file without its end is unreadable, see below")
    name = "duplicate event"
    copy = Expected(is_copy=True)
    yield _in_csv(name, (line(name, "csv"), good), (line(name, "csv"), copy))
    reordered = json.dumps(dict(reversed(_event(name, "json").items())))
    yield _in_json(name, (line(name, "json"), good), (reordered, copy))
    yield _in_parquet(name, {"item_id": [name, name]}, good, copy)
    name = "duplicate of a refused event"
    refused = Expected(NO_USER)
    yield _in_csv(name, (line(name, "csv", user_id=""), refused), (line(name, "csv", user_id=""), copy))
    yield _in_json(name, (line(name, "json", user_id=""), refused), (line(name, "json", user_id=""), copy))
    yield _in_parquet(name, {"user_id": ["", ""], "item_id": [name, name]}, refused, copy)
    name = "nested id"
    yield _none(name, "csv", "a cell is text")
    as_text = Expected(user='{"a": [1, 2.50]}')
    yield _in_json(name, (line(name, "json", user_id="X").replace('"X"', '{"a": [1, 2.50]}'), as_text))
    yield _in_parquet(name, {"user_id": [{"a": 1}]}, Expected(user='{"a": 1}'))
    name = "array for a record"
    why = "a row is a row"
    yield _none(name, "csv", why)
    yield _in_json(
        name, (f"[{line(name, 'json')}]", Expected(BROKEN)), ("7", Expected(BROKEN)), ("null", Expected(BROKEN))
    )
    yield _none(name, "parquet", why)
    name = "array over all lines"
    yield _none(name, "csv", why)
    yield _in_json(
        name, ("[" + line(name, "json") + ",", Expected(BROKEN)), (line(name, "json", 1) + "]", Expected(BROKEN))
    )
    yield _none(name, "parquet", why)
    name = "name given twice in a record"
    twice = line(name, "json")[:-1] + ', "user_id": "v"}'
    yield _none(name, "csv", "names are in the header, see below")
    yield _in_json(name, (twice, Expected(BROKEN)))
    yield _none(name, "parquet", "names are in the schema, see below")
    deep = "a cell is text"

    def nested(levels: int) -> pa.Array:
        kind: pa.DataType = pa.int64()
        value: Any = 1
        for _ in range(levels):
            kind, value = pa.list_(kind), [value]
        return pa.array([value], kind)

    def levels(name: str, n: int) -> str:
        return line(name, "json", more="X").replace('"X"', '{"a":' * n + "1" + "}" * n)

    name = "30 levels deep"
    yield _none(name, "csv", deep)
    yield _in_json(name, (levels(name, 30), good))
    yield _in_parquet(name, {"more": nested(30)}, good)
    name = "1,000 levels deep"
    yield _none(name, "csv", deep)
    # Python 3.11 reads some 990.
    yield _in_json(name, (levels(name, 1000), Expected(BROKEN)), (line(name, "json", 1), good))
    schema = replace(_in_parquet(name, {"more": nested(1000)}), records=(), outcome=ledger.UNREADABLE)
    yield replace(schema, told="too deeply nested")
    name = "100,000 levels deep"
    yield _none(name, "csv", deep)
    yield _in_json(name, ("[" * 100_000, Expected(BROKEN)), (line(name, "json"), good))
    yield _none(name, "parquet", "no writer makes such a schema")
    name = "half a surrogate pair"
    yield _none(name, "csv", "its bytes are no UTF-8, see above")
    yield _in_json(name, (line(name, "json", user_id="X").replace("X", "\\ud83d"), Expected(BROKEN)))
    yield _none(name, "parquet", "its bytes are no UTF-8, see above")
    name = "header between the records"
    repeated = Expected(("unreadable_time", "value_not_a_number"))
    yield _in_csv(name, (line(name, "csv"), good), (csv_line(COLUMNS), repeated))
    yield _none(name, "json", "there is none")
    yield _none(name, "parquet", "there is none")
    name = "ids as int32 in one file and int64 in the next"
    yield _none(name, "csv", "text has no width")
    yield _none(name, "json", "text has no width")
    yield _in_parquet(name, {"user_id": pa.array([7], pa.int32())}, Expected(user="7"))


def _files() -> Iterator[Case]:
    def lines(name: str, form: Form, n: int = 2) -> list[str]:
        events = [_event(name, form, number) for number in range(n)]
        return [csv_line([*event.values()]) if form == "csv" else json.dumps(event) for event in events]

    def whole(name: str, form: Form, n: int = 2) -> bytes:
        if form == "parquet":
            events = [_event(name, form, number) for number in range(n)]
            return parquet_bytes({column: pa.array([e[column] for e in events], pa.string()) for column in COLUMNS})
        return csv_bytes(lines(name, form, n)) if form == "csv" else json_bytes(lines(name, form, n))

    def in_each(
        name: str, expected: int, csv_: bytes, json_: bytes, parquet: bytes | str, **more: Any
    ) -> Iterator[Case]:
        records = (Expected(),) * expected
        yield Case(name, "csv", csv_, records, **more)
        yield Case(name, "json", json_, records, **more)
        if isinstance(parquet, str):
            yield _none(name, "parquet", parquet)
        else:
            yield Case(name, "parquet", parquet, records, **more)

    def marked(name: str, form: Form) -> bytes:
        return b"\xef\xbb\xbf" + whole(name, form)

    def ends(name: str, form: Form, end: bytes) -> bytes:
        return whole(name, form).replace(b"\n", end)

    no_text = "it is no text"
    name = "byte order mark"
    yield from in_each(name, 2, marked(name, "csv"), marked(name, "json"), no_text)
    name = "lines that end in CR LF"
    yield from in_each(name, 2, ends(name, "csv", b"\r\n"), ends(name, "json", b"\r\n"), no_text)
    name = "lines that end in CR"
    yield from in_each(name, 2, ends(name, "csv", b"\r"), ends(name, "json", b"\r"), no_text)
    name = "blank lines between"
    yield from in_each(name, 2, ends(name, "csv", b"\n \n\n"), ends(name, "json", b"\n \n\n"), no_text)
    name = "no line end at the end"
    yield from in_each(name, 2, whole(name, "csv")[:-1], whole(name, "json")[:-1], no_text)
    yield from in_each("empty file", 0, b"", b"", b"", outcome=ledger.EMPTY)
    name = "header only"
    yield from in_each(name, 0, whole(name, "csv", 0), b"\n\n", whole(name, "parquet", 0))
    name = "column given twice"
    columns = (*COLUMNS, "user_id")
    twice = (Expected(user="u"),)
    yield Case(name, "csv", csv_bytes([lines(name, "csv", 1)[0] + ",v"], columns), twice)
    yield _none(name, "json", "names are in the record, see above")
    buffer = io.BytesIO()
    arrays = [pa.array([text]) for text in (*_event(name, "parquet").values(), "v")]
    pq.write_table(pa.Table.from_arrays(arrays, names=list(columns)), buffer)
    yield Case(name, "parquet", buffer.getvalue(), twice)
    packed = "Parquet is packed by itself"
    for name, cut in (("truncated gzip", slice(None, -9)), ("gzip without a byte of data", slice(None, 10))):
        for form in TEXTS:
            content = gzip.compress(whole(name, form))[cut]
            yield Case(name, form, content, outcome=ledger.UNREADABLE, ending=f".{form}.gz", told="gzip")
        yield _none(name, "parquet", packed)
    name = "plain text named gzip"
    for form in TEXTS:
        yield Case(name, form, whole(name, form), outcome=ledger.UNREADABLE, ending=f".{form}.gz", told="gzip")
    yield _none(name, "parquet", packed)
    name = "gzip of nothing"
    for form in TEXTS:
        yield Case(name, form, gzip.compress(b""), outcome=ledger.EMPTY, ending=f".{form}.gz")
    yield _none(name, "parquet", packed)
    has_end = "it has no end that could be missing"
    damages = {
        "half a footer": lambda content: content[:-40],
        "first bytes alone": lambda content: content[:4],
        "pages overwritten": lambda content: content[:40] + b"\xff" * (len(content) - 400) + content[-360:],
    }
    for name, damage in damages.items():
        yield _none(name, "csv", has_end)
        yield _none(name, "json", has_end)
        content = damage(whole(name, "parquet", 200))
        yield Case(name, "parquet", content, outcome=ledger.UNREADABLE, told="not a readable Parquet file")
    name = "another format under this ending"
    yield Case(name, "csv", whole(name, "json"), outcome=REFUSED, told="no column 'user_id'")
    broken = tuple(Expected(BROKEN, raw=text) for text in (csv_line(COLUMNS), *lines(name, "csv")))
    yield Case(name, "json", whole(name, "csv"), broken)
    yield Case(name, "parquet", whole(name, "csv"), outcome=ledger.UNREADABLE, told="not a readable Parquet file")
    name = "column missing"
    yield Case(name, "csv", csv_bytes(["u,i,1"], COLUMNS[:3]), outcome=REFUSED, told="no column 'event_time'")
    event = _event(name, "json")
    del event["event_time"]
    yield _in_json(name, (json.dumps(event), Expected(("missing_time",))))
    bare = parquet_bytes({column: ["1"] for column in COLUMNS[:3]})
    yield Case(name, "parquet", bare, outcome=REFUSED, told="no column 'event_time'")
    name = "column name in another case"
    renamed = ("User_ID", *COLUMNS[1:])
    yield Case(name, "csv", csv_bytes(lines(name, "csv"), renamed), outcome=REFUSED, told="no column 'user_id'")
    other = lines(name, "json", 1)[0].replace("user_id", "User_ID")
    yield _in_json(name, (other, Expected(NO_USER)))
    other_case = parquet_bytes({column: ["1"] for column in renamed})
    yield Case(name, "parquet", other_case, outcome=REFUSED, told="no column 'user_id'")
    name = "UTF-16 read as UTF-8"
    yield Case(name, "csv", whole(name, "csv").decode().encode("utf-16"), outcome=REFUSED, told="no column 'user_id'")
    yield _none(name, "json", "its lines are broken records, as in: bytes that are no UTF-8")
    yield _none(name, "parquet", no_text)
