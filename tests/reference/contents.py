"""What a lake holds, whatever run wrote it and when: each table's rows as delta-rs reads them, and a hash.

Reads the tables with no line of the package under test, and without Spark.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

# Storage only (index), or saying which run wrote the row, when, how fast, and in which commit.
OF_THE_RUN = frozenset(
    {
        "index",
        "run_id",
        "arrival",
        "ingested_at",
        "refused_at",
        "recorded_at",
        "published_at",
        "modified_at",
        "seconds",
        "lease",
        "versions",
        "interactions_version",
    }
)
# The latest row of a key holds: saying the same twice (a file planned again after a kill) says no more.
REGISTERS = frozenset({"ingest_ledger", "models", "publications"})
PUBLISHED = ("user_factors", "item_factors", "recommendations", "publications")


def read_table(path: str | Path) -> pa.Table:
    """Return the latest version of the Delta table at ``path``."""
    return DeltaTable(str(path)).to_pyarrow_table()


def rows_of(path: str | Path, leave_out: Collection[str] = ()) -> list[str]:
    """Return each row as JSON, sorted, without the columns that tell of the run and those of ``leave_out``.

    Floats keep every bit (repr), so equal rows mean equal numbers. A register's rows are listed once each.
    """
    table = read_table(path)
    kept = [name for name in table.column_names if name not in OF_THE_RUN and name not in leave_out]
    maps = [field.name for field in table.schema if field.name in kept and pa.types.is_map(field.type)]
    rows = table.select(kept).to_pylist()
    for row in rows:
        # A map comes as pairs in whatever order they were written.
        row |= {name: sorted(row[name]) for name in maps if row[name] is not None}
    lines = [json.dumps(row, default=_text, sort_keys=True) for row in rows]
    return sorted(set(lines) if Path(path).name in REGISTERS else lines)


def content_hash(path: str | Path, leave_out: Collection[str] = ()) -> str:
    """Return the SHA-256 of a table's rows, whatever their order and files."""
    digest = hashlib.sha256()
    for line in rows_of(path, leave_out):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def tables_of(root: str | Path) -> dict[str, Path]:
    """Return every Delta table under ``root`` by its path from there."""
    found = sorted(log.parent for log in Path(root).rglob("_delta_log") if any(log.glob("*.json")))
    return {str(path.relative_to(root)): path for path in found}


def lake_contents(root: str | Path) -> dict[str, str]:
    """Return the content hash of every table under ``root`` but `runs`, which tells of runs alone."""
    return {name: content_hash(path) for name, path in tables_of(root).items() if name != "runs"}


def published_bytes(root: str | Path, recommender: str = "main") -> dict[str, tuple[int, str]]:
    """Return version and content hash of each published table: equal only where none was touched."""
    paths = {name: Path(root) / recommender / name for name in PUBLISHED}
    return {name: (DeltaTable(str(path)).version(), content_hash(path)) for name, path in paths.items()}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no text for {type(value).__name__}")
