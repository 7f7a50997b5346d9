"""TEST 2.3: what files do, one thing after the other on one lake; each is told, and nothing is lost or twice."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from factorlake.errors import DataRefusedError
from factorlake.pipelines import ingest, validate
from factorlake.pipelines.ingest import CHANGED
from tests.pipelines.lakes import HEADER, context_at, events, write_csv
from tests.reference.contents import read_table

pytestmark = [pytest.mark.spark, pytest.mark.faults]

MONTH = 30 * 86_400
KINDS = ("records", "duplicate_files", "changed_files", "empty_files", "unreadable_files")


@dataclass
class Lake:
    """A lake and its input folder; what was sent so far, and what must be in it."""

    spark: SparkSession
    root: Path
    source: Path
    sent: set[str] = field(default_factory=set)
    """Whole rows, as they stood in the files."""

    def run(self, on_unreadable: str = "skip") -> dict[str, Any]:
        """Ingest and validate; return the kinds of files and of records that the run's record tells, without zeros."""
        validation = {"gate": {"history": False, "min_rows": 0, "max_quarantined_share": 1.0}}
        context = context_at(
            self.spark, str(self.root), self.source, ingest={"on_unreadable": on_unreadable}, validate=validation
        )
        took = ingest.run(context)
        told = {name: took.counts[name] for name in KINDS}
        if took.exit_code == 0:
            judged = validate.run(context)
            assert judged.exit_code == 0, judged.reason
            told |= {name: judged.counts[name] for name in ("accepted", "quarantined", "duplicates")}
            assert judged.counts["rows"] == took.counts["records"]
        self.check()
        return {name: count for name, count in told.items() if count}

    def check(self) -> None:
        """Every row that was sent is in interactions, once."""
        found = read_table(self.root / "interactions").to_pylist()
        rows = sorted(
            f"{row['user_id']},{row['item_id']},{row['value']:g},{row['event_time']:%Y-%m-%dT%H:%M:%SZ}"
            for row in found
        )
        assert rows == sorted(self.sent)

    def ledger(self, name: str) -> tuple[str, str | None]:
        """Outcome and detail of a file's last row."""
        rows = [row for row in read_table(self.root / "ingest_ledger").to_pylist() if row["file"].endswith(f"/{name}")]
        last = max(rows, key=lambda row: row["recorded_at"])
        return last["outcome"], last["detail"]


def test_files_that_come_twice_grow_change_or_come_late_lose_no_event_and_double_none(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake, log = Lake(spark, tmp_path / "lake", tmp_path / "log"), tmp_path / "log"
    first = write_csv(log / "a.csv", *events(1, 2, 3))
    lake.sent |= set(events(1, 2, 3))
    assert lake.run() == {"records": 3, "accepted": 3}
    # The same file again, and once more with another time of change.
    assert lake.run() == {}
    os.utime(first, (first.stat().st_mtime + 60,) * 2)
    assert lake.run() == {"duplicate_files": 1}
    shutil.copy(first, log / "copy.csv")
    assert lake.run() == {"duplicate_files": 1}
    assert lake.ledger("copy.csv")[0] == "duplicate"
    assert "a.csv" in (lake.ledger("copy.csv")[1] or "")

    # Appended to: what it held before is told as copies.
    write_csv(first, *events(1, 2, 3, 4))
    lake.sent |= set(events(4))
    assert lake.run() == {"records": 4, "changed_files": 1, "accepted": 1, "duplicates": 3}
    assert lake.ledger("a.csv") == ("ingested", CHANGED)
    # Overwritten in place, by as many bytes and with the old time of change but for a second.
    write_csv(first, *events(5, 6, 7, 8))
    os.utime(first, (first.stat().st_mtime + 1,) * 2)
    lake.sent |= set(events(5, 6, 7, 8))
    assert lake.run() == {"records": 4, "changed_files": 1, "accepted": 4}

    # Late by a month, by its time of change; its events are as old, and half of them came before in another file.
    old = write_csv(log / "late.csv", *events(8), *[row.replace("2024-01-01", "2023-12-02") for row in events(9)])
    os.utime(old, (first.stat().st_mtime - MONTH,) * 2)
    lake.sent |= {row.replace("2024-01-01", "2023-12-02") for row in events(9)}
    assert lake.run() == {"records": 2, "accepted": 1, "duplicates": 1}

    # Half written: the cut line is refused, and accepted once it is whole.
    text = "\n".join([HEADER, *events(11, 12)]) + "\n"
    (log / "half.csv").write_text(text[:-30])
    lake.sent |= set(events(11))
    assert lake.run() == {"records": 2, "accepted": 1, "quarantined": 1}
    (log / "half.csv").write_text(text)
    lake.sent |= set(events(12))
    assert lake.run() == {"records": 2, "changed_files": 1, "accepted": 1, "duplicates": 1}

    # With its head alone, and without a byte.
    write_csv(log / "head.csv")
    (log / "nothing.csv").write_text("")
    assert lake.run() == {"empty_files": 1}
    assert (lake.ledger("head.csv"), lake.ledger("nothing.csv")) == (("ingested", None), ("empty", None))
    write_csv(log / "nothing.csv", *events(13))
    lake.sent |= set(events(13))
    assert lake.run() == {"records": 1, "accepted": 1}

    # Cut off: refused as long as it is so, or left out and tried again; then whole.
    whole = gzip.compress(("\n".join([HEADER, *events(14)]) + "\n").encode())
    (log / "cut.csv.gz").write_bytes(whole[:-7])
    with pytest.raises(DataRefusedError, match=r"cut\.csv\.gz: not a whole gzip file"):
        lake.run(on_unreadable="refuse")
    lake.check()
    for _ in range(2):
        assert lake.run() == {"unreadable_files": 1}
    assert lake.ledger("cut.csv.gz")[0] == "unreadable"
    (log / "cut.csv.gz").write_bytes(whole)
    lake.sent |= set(events(14))
    assert lake.run() == {"records": 1, "accepted": 1}
    assert lake.run() == {}
