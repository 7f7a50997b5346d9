"""Rows and corruptions drawn by hypothesis, each with what must become of it, printed in each format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.hostile_rows import COLUMNS, LATEST, Form, csv_bytes, csv_line, json_bytes, parquet_bytes

Corruption = Literal["none", "cut", "more", "bytes", "copy"]
CORRUPTIONS: dict[Form, tuple[Corruption, ...]] = {
    "csv": ("none", "none", "cut", "more", "bytes", "copy"),
    "json": ("none", "none", "cut", "more", "bytes", "copy"),
    "parquet": ("none", "none", "bytes", "copy"),
}
NAMES = (*COLUMNS, "note")
BAD_BYTE = b"\xff"


@dataclass(frozen=True)
class Cell:
    """A text, what it is read as, and the reason to refuse its record."""

    text: str | None
    read: Any = None
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """The cells of one record, in the order of COLUMNS, and what is done to it once it is printed."""

    cells: tuple[Cell, Cell, Cell, Cell]
    corruption: Corruption

    def reasons(self, form: Form) -> list[str]:
        """Why its record must be refused; none: it must be accepted."""
        broken = self.corruption == "bytes" or self.corruption == "cut" or (self.corruption == "more" and form == "csv")
        if self.corruption == "cut" or (self.corruption == "more" and form == "csv"):
            # It could not be split into fields, so nothing is known of them.
            return ["broken_record"]
        found = {cell.reason for cell in self.cells if cell.reason is not None}
        return sorted(found | ({"broken_record"} if broken else set()))


def _ids(column: str) -> st.SearchStrategy[Cell]:
    missing = f"missing_{column}"
    # A CR would end a line of CSV as a LF does; the mark of files' beginnings is white space to us, not to Python.
    letters = st.characters(codec="utf-8", exclude_characters="\r\ufeff")
    texts = st.text(letters, min_size=1, max_size=30) | st.integers().map(str) | st.uuids().map(str)
    traps = st.sampled_from(["007", "1e3", "+1", "null", "nan", "-0", '"', "''", "a,b", "a\nb", " a ", "a\n", "{}"])

    def cell(text: str | None) -> Cell:
        bare = (text or "").strip()
        return Cell(text, bare, None if bare else missing)

    return st.one_of(texts, texts, traps, st.sampled_from([None, "", " ", "\u00a0\u3000"])).map(cell)


def _values() -> st.SearchStrategy[Cell]:
    def number(value: float) -> Cell:
        # repr is the shortest text that reads back.
        return Cell(repr(value), value)

    words = st.text(st.characters(categories=["L", "Sm"]), min_size=1, max_size=8).filter(_is_no_number)
    return st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False).map(number),
        st.integers(-(10**15), 10**15).map(number),
        words.map(lambda text: Cell(text, reason="value_not_a_number")),
        st.sampled_from(["nan", "NaN", "-inf", "Infinity", "1e309", "3.5e38"]).map(
            lambda text: Cell(text, reason="value_not_finite")
        ),
        st.sampled_from([None, "", "  "]).map(lambda text: Cell(text, reason="missing_value")),
    )


def _is_no_number(text: str) -> bool:
    return text.strip("+-").lower() not in ("nan", "inf", "infinity")


def _times() -> st.SearchStrategy[Cell]:
    zones = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    latest = datetime.fromisoformat(LATEST).replace(tzinfo=None)
    moments = st.datetimes(datetime(1990, 1, 2), latest - timedelta(days=1), timezones=zones)

    def zoned(moment: datetime) -> Cell:
        return Cell(moment.isoformat(), moment.astimezone(UTC))

    return st.one_of(
        moments.map(zoned),
        moments.map(lambda moment: zoned(moment.replace(microsecond=0))),
        st.datetimes(datetime(1, 1, 2), datetime(1989, 12, 30)).map(
            lambda moment: Cell(f"{moment.isoformat()}Z", reason="impossible_time")
        ),
        st.datetimes(datetime(2000, 1, 1), datetime(2020, 1, 1)).map(
            lambda moment: Cell(moment.isoformat(" "), reason="time_without_zone")
        ),
        st.text(st.characters(categories=["L"]), min_size=1, max_size=8).map(
            lambda text: Cell(text, reason="unreadable_time")
        ),
        st.sampled_from([None, "", "\t"]).map(lambda text: Cell(text, reason="missing_time")),
    )


def generate(form: Form, n: int) -> list[Row]:
    """Return ``n`` rows, the same at every call: a failure can be looked at again."""
    found: list[Row] = []
    cells = st.tuples(_ids("user_id"), _ids("item_id"), _values(), _times())
    rows = st.builds(Row, cells, st.sampled_from(CORRUPTIONS[form]))

    @settings(
        max_examples=n, phases=[Phase.generate], derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(rows)
    def collect(row: Row) -> None:
        # A record over several lines that has the wrong number of fields is taken for as many broken ones.
        in_lines = form == "csv" and any("\n" in (cell.text or "") for cell in row.cells)
        found.append(replace(row, corruption="none") if in_lines and row.corruption in ("cut", "more") else row)

    collect()
    return found


def note(form: Form, number: int) -> str:
    """What tells a row's record from all others."""
    return f"{form} {number}"


def fields(form: Form, number: int, row: Row) -> dict[str, str | None]:
    """The row as fields, before it is printed."""
    texts = [*(cell.text for cell in row.cells), note(form, number)]
    return dict(zip(NAMES, texts, strict=True))


def printed(form: Form, rows: Sequence[Row]) -> bytes:
    """Return the rows as a file. A copy follows its row at once."""
    if form == "parquet":
        return _as_parquet(rows)
    lines: list[bytes] = []
    for number, row in enumerate(rows):
        event = fields(form, number, row)
        if form == "csv":
            text = csv_line([cell or "" for cell in event.values()])
            more, cut = f"{text},more", f"{text[: text.rindex(',')]}"
        else:
            text = json.dumps(event, ensure_ascii=number % 2 == 0)
            more, cut = text[:-1] + ', "more": [1, {"a": null}]}', text[:-1]
        line = {"cut": cut, "more": more}.get(row.corruption, text).encode()
        if row.corruption == "bytes":
            line = line.replace(note(form, number).encode(), note(form, number).encode() + BAD_BYTE)
        lines += [line] * (2 if row.corruption == "copy" else 1)
    return csv_bytes(lines, NAMES) if form == "csv" else json_bytes(lines)


def _as_parquet(rows: Sequence[Row]) -> bytes:
    columns: dict[str, list[str | None]] = {name: [] for name in COLUMNS}
    notes: list[bytes] = []
    for number, row in enumerate(rows):
        bad = BAD_BYTE if row.corruption == "bytes" else b""
        for _ in range(2 if row.corruption == "copy" else 1):
            for name, cell in zip(COLUMNS, row.cells, strict=True):
                columns[name].append(cell.text)
            notes.append(note("parquet", number).encode() + bad)
    texts = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    return parquet_bytes({**texts, "note": pa.array(notes, pa.binary()).view(pa.string())})
