"""`factorlake history`: what was published into a slot and taken back, newest first."""

from __future__ import annotations

import json
import sys
from typing import Any

from pyspark.sql import Row

from factorlake.config.settings import Settings
from factorlake.errors import DONE
from factorlake.spark.session import open_session
from factorlake.tables import registry
from factorlake.tables.names import Lake


def show(settings: Settings, as_json: bool) -> int:
    """Print the publications of the settings' slot; a slot that nothing was published into yet has none."""
    lake = Lake.at(settings.root, settings.recommender)
    slot = settings.publish.slot
    told = [_told(row) for row in registry.publications(open_session(settings.spark), lake, slot)]
    if not as_json:
        sys.stdout.write(f"slot {slot}\n")
        for entry in told:
            sys.stdout.write(f"  {_line(entry)}\n")
        if not told:
            sys.stdout.write("  none yet\n")
    sys.stdout.write(json.dumps({"exit_code": DONE, "slot": slot, "publications": told}) + "\n")
    return DONE


def _told(row: Row) -> dict[str, Any]:
    return {
        "published_at": row["published_at"].isoformat(timespec="seconds"),
        "publication": row["run_id"],
        # Publications from before kinds were noted have none; there was no rollback then.
        "kind": row["kind"] or "publish",
        "model_version": row["model_version"],
        "restores": row["restores"],
        "versions": dict(sorted(row["versions"].items())),
    }


def _line(entry: dict[str, Any]) -> str:
    kind = entry["kind"] if entry["restores"] is None else f"{entry['kind']} to {entry['restores']}"
    versions = " ".join(f"{table}={version}" for table, version in entry["versions"].items())
    return "  ".join((entry["published_at"], entry["publication"], kind, entry["model_version"], versions))
