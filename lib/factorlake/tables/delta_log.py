"""The log of a Delta table on this machine's disk: which of its files are over, and can go."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

from factorlake.paths import has_scheme

OF_A_VERSION = re.compile(r"\.?(\d{20})\.(json|crc|checkpoint\.parquet)(\.crc)?\Z")


def drop_commits(path: str, before: datetime) -> int:
    """Remove the log's files of versions that were over at ``before``: those under the newest checkpoint that is as
    old. Return how many.

    Every version that was current then or came later stays readable. None are removed where there is no such
    checkpoint, no table, or where the path is not this machine's: there Delta's own clearing of logs has its time.
    """
    folder = Path(path) / "_delta_log"
    last = folder / "_last_checkpoint"
    if has_scheme(path) or not last.is_file():
        return 0
    # Written after the checkpoint that it names: no later one is known to be whole.
    whole = int(json.loads(last.read_text(encoding="utf-8"))["version"])
    files = sorted(
        (int(found[1]), entry) for entry in folder.iterdir() if (found := OF_A_VERSION.match(entry.name)) is not None
    )
    checkpoints = {version for version, entry in files if entry.name == f"{version:020d}.checkpoint.parquet"}
    old = [
        version
        for version, entry in files
        if version <= whole
        and version in checkpoints
        and entry.name == f"{version:020d}.json"
        and entry.stat().st_mtime <= before.timestamp()
    ]
    if not old:
        return 0
    over = [entry for version, entry in files if version < max(old)]
    for entry in over:
        entry.unlink(missing_ok=True)
    return len(over)
