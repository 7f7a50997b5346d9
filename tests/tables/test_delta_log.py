"""Which commits of a table's log go, as delta-rs reads what is left."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from factorlake.tables.delta_log import drop_commits

HOUR = 3600.0
START = datetime(2026, 1, 1, tzinfo=UTC)


def table_at(path: Path, checkpoints: tuple[int, ...] = (2, 5), n_versions: int = 8) -> None:
    """Write a table of a version an hour, each with a row more, some with a checkpoint."""
    for version in range(n_versions):
        write_deltalake(str(path), pa.table({"n": [version]}), mode="append")
        if version in checkpoints:
            DeltaTable(str(path)).create_checkpoint()
    for entry in (path / "_delta_log").iterdir():
        if entry.name[:20].isdigit():
            then = START.timestamp() + int(entry.name[:20]) * HOUR
            os.utime(entry, (then, then))


def at(hours: float) -> datetime:
    return datetime.fromtimestamp(START.timestamp() + hours * HOUR, UTC)


def kept(path: Path) -> list[int]:
    return sorted({int(entry.name[:20]) for entry in (path / "_delta_log").glob("*.json")})


def test_every_version_that_was_current_then_or_later_stays_readable(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table_at(table)
    # Version 4 was current at half past four: it is read from the checkpoint of version 2.
    assert drop_commits(str(table), at(4.5)) > 0
    assert kept(table) == [2, 3, 4, 5, 6, 7]
    for version in range(2, 8):
        read = DeltaTable(str(table), version=version).to_pyarrow_table()["n"].to_pylist()
        assert sorted(read) == list(range(version + 1))
    assert drop_commits(str(table), at(4.5)) == 0
    drop_commits(str(table), at(100))
    assert kept(table) == [5, 6, 7]
    assert sorted(DeltaTable(str(table)).to_pyarrow_table()["n"].to_pylist()) == list(range(8))


def test_nothing_goes_without_a_whole_checkpoint_that_is_old_enough(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table_at(table)
    assert drop_commits(str(table), at(1.5)) == 0
    # The last checkpoint that is known to be whole is that of version 2.
    log = table / "_delta_log"
    (log / "_last_checkpoint").write_text('{"version": 2, "size": 3}')
    drop_commits(str(table), at(100))
    assert kept(table) == [2, 3, 4, 5, 6, 7]
    (log / "_last_checkpoint").unlink()
    assert drop_commits(str(table), at(100)) == 0
    assert drop_commits(str(tmp_path / "none"), at(100)) == 0
    assert drop_commits("s3://bucket/table", at(100)) == 0
