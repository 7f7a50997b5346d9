"""`factorlake status`: the last runs, models and publications of a recommender."""

from __future__ import annotations

import json
import sys
from typing import Any

from pyspark.sql import functions as F

from factorlake.config.settings import Settings
from factorlake.errors import DONE
from factorlake.spark.session import open_session
from factorlake.tables import delta_io
from factorlake.tables.names import Lake

SHOWN = 10
_TABLES = {
    "runs": ("finished_at", ["run_id", "state", "exit_code", "seconds", "model_version", "reason"]),
    "models": ("recorded_at", ["model_version", "state", "objective", "rank", "n_users", "n_items", "loss"]),
    "publications": ("published_at", ["slot", "model_version", "as_of", "published_at"]),
}


def show(settings: Settings, as_json: bool) -> int:
    """Print the newest rows of runs, models and publications; tables that are not there yet count as empty."""
    spark = open_session(settings.spark)
    lake = Lake.at(settings.root, settings.recommender)
    found: dict[str, list[dict[str, Any]]] = {}
    for table, (order, columns) in _TABLES.items():
        path = lake.shared(table) if table == "runs" else lake.own(table)
        if not delta_io.exists(spark, path):
            found[table] = []
            continue
        rows = delta_io.read(spark, path).orderBy(F.desc(order)).limit(SHOWN).select(columns).collect()
        found[table] = [row.asDict() for row in rows]
    if not as_json:
        for table, lines in found.items():
            sys.stdout.write(f"{table}\n")
            for line in lines or [{"": "none yet"}]:
                sys.stdout.write("  " + "  ".join(str(value) for value in line.values() if value is not None) + "\n")
    sys.stdout.write(json.dumps({"exit_code": DONE, **found}, default=str) + "\n")
    return DONE
