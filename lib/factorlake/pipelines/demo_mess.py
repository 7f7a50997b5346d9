"""How the demo's records become the messy files of a real service, every flaw counted.

A flawed record is added beside the good ones and breaks exactly one rule; exact copies are of good records
only. So the counts of a run over the files must equal the counts kept here, whatever the run does first.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Record = dict[str, str | None]
Flaw = Callable[[Record, np.random.Generator], None]

BROKEN = "broken_record"
_COPIED_SHARE = 0.015
_PADDED_SHARE = 0.01
_LONGEST_DELAY_DAYS = 2


@dataclass(frozen=True)
class Entry:
    """A good record, and where it is written: day (from 0), kind of file, second since the first day
    began."""

    record: Record
    day: int
    source: str
    second: float


class MessyLog:
    """The lines of one log's files, and the count of everything planted in them."""

    def __init__(self, columns: tuple[str, ...], n_days: int, rng: np.random.Generator) -> None:
        self._columns = columns
        self._n_days = n_days
        self._rng = rng
        self._lines: dict[tuple[int, str], list[tuple[float, str]]] = {}
        self._written: set[str] = set()
        self._accepted = 0
        self._duplicates = 0
        self._padded_ids = 0
        self._quarantined: Counter[str] = Counter()

    def add_good(self, entries: list[Entry], id_columns: tuple[str, str]) -> None:
        """Write the good records, white space around some of their ids, and copies of some of them.

        A copy goes to the same file or, as a late redelivery, to a file of the same kind of one of the next
        days.
        """
        padded = self._rng.random(len(entries)) < _PADDED_SHARE
        copied = self._rng.random(len(entries)) < _COPIED_SHARE
        for position, entry in enumerate(entries):
            record = entry.record
            if padded[position]:
                column = id_columns[int(self._rng.integers(2))]
                record = {**record, column: _padded(str(record[column]), self._rng)}
            line = print_record(record, self._columns, entry.source)
            self._add(entry, line)
            if copied[position]:
                day = min(entry.day + int(self._rng.integers(_LONGEST_DELAY_DAYS + 1)), self._n_days - 1)
                self._add(replace(entry, day=day, second=entry.second + 1), line)
        self._accepted += len(entries)
        self._duplicates += int(copied.sum())
        self._padded_ids += int(padded.sum())

    def add_flawed(self, models: list[Entry], flaws: list[tuple[str, float, Flaw]]) -> None:
        """Write, for each (reason, share of the models, flaw), that many variants of models with the flaw.

        A variant that came out equal to a line already written would be a copy, not a flaw: it is left out.
        """
        for reason, share, flaw in flaws:
            for entry in self._choose(models, share):
                record = dict(entry.record)
                flaw(record, self._rng)
                self._add_refused(entry, print_record(record, self._columns, entry.source), reason)

    def add_broken(self, models: list[Entry], share: float) -> None:
        """Write lines that are no records: cut JSON; CSV with fields missing, or with some too many."""
        for entry in self._choose(models, share):
            if is_csv(entry.source):
                # None of these fields holds a delimiter or a quote, so they can be joined as they are.
                fields = [str(entry.record[column]) for column in self._columns[:-2]]
                line = ",".join(fields if self._rng.random() < 0.5 else [*fields, "1", "web", "", ""])
            else:
                whole = print_record(entry.record, self._columns, entry.source)
                line = whole[: int(self._rng.integers(len(whole) // 2, len(whole) - 1))]
            self._add_refused(entry, line, BROKEN)

    def files(self) -> Iterator[tuple[int, str, str]]:
        """Yield (day, source, text) of each file: lines by time of writing, below a header where it is
        CSV."""
        for (day, source), lines in sorted(self._lines.items()):
            ordered = [line for _, line in sorted(lines)]
            if is_csv(source):
                ordered.insert(0, ",".join(self._columns))
            yield day, source, "\n".join(ordered) + "\n"

    def counts(self) -> dict[str, Any]:
        """Return the planted counts, which add up: records = accepted + duplicates + all quarantined."""
        return {
            "records": sum(len(lines) for lines in self._lines.values()),
            "accepted": self._accepted,
            "duplicates": self._duplicates,
            "quarantined": dict(sorted(self._quarantined.items())),
            "padded_ids": self._padded_ids,
        }

    def _add(self, entry: Entry, line: str) -> None:
        self._lines.setdefault((entry.day, entry.source), []).append((entry.second, line))
        self._written.add(line)

    def _add_refused(self, entry: Entry, line: str, reason: str) -> None:
        if line not in self._written:
            self._add(entry, line)
            self._quarantined[reason] += 1

    def _choose(self, models: list[Entry], share: float) -> list[Entry]:
        chosen = self._rng.choice(len(models), size=max(1, round(share * len(models))), replace=False)
        return [models[position] for position in chosen]


def is_csv(source: str) -> bool:
    """Whether files of this kind are CSV; else they are JSON lines."""
    return source.endswith("csv")


def blank(column: str) -> Flaw:
    """A flaw: the column is empty, white space, null, or not there at all (the last two in JSON alone)."""

    def flaw(record: Record, rng: np.random.Generator) -> None:
        kind = int(rng.integers(4))
        if kind == 3:
            del record[column]
        else:
            record[column] = ("", "   ", None)[kind]

    return flaw


def one_of(column: str, *values: str) -> Flaw:
    """A flaw: the column holds one of these values."""

    def flaw(record: Record, rng: np.random.Generator) -> None:
        record[column] = values[int(rng.integers(len(values)))]

    return flaw


def print_record(record: Record, columns: tuple[str, ...], source: str) -> str:
    """Return the record as one line of a file of this source; whole numbers stand in JSON without quotes."""
    if not is_csv(source):
        values = {name: int(text) if text and text.isdecimal() else text for name, text in record.items()}
        return json.dumps(values, ensure_ascii=False)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([record.get(column) or "" for column in columns])
    return buffer.getvalue()


def _padded(text: str, rng: np.random.Generator) -> str:
    return (f" {text}", f"{text}  ", f"\t{text} ")[int(rng.integers(3))]
