"""`factorlake migrate`: bring the tables of a lake from the schema version before to the one of this release.

No row is written: tables get the columns that they lack, and properties. A job of this release reads both versions, so
nothing has to be migrated before the release after the next. Run again it finds nothing to do; killed anywhere, it goes
on.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from factorlake.config.settings import Settings
from factorlake.errors import DONE, NOTHING_TO_DO
from factorlake.spark.session import open_session
from factorlake.tables import delta_io, registry
from factorlake.tables.lease import Lease
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMA_VERSION, SCHEMAS


def show(settings: Settings, as_json: bool, dry_run: bool = False) -> int:
    """Migrate every table of the lake at the settings' root, of all recommenders, and print what each got.

    ``dry_run`` tells it and touches nothing. Returns 99 when every table has the version of this release.

    Raises
    ------
    LeaseHeldError : a job is writing. ConfigError : a table is of a version that this release does not read.
    """
    spark = open_session(settings.spark)
    lake = Lake.at(settings.root, settings.recommender)
    told: dict[str, list[str]] = {}
    with ExitStack() as held:
        lakes = [lake, *(Lake.at(settings.root, other) for other in lake.other_recommenders())]
        if lake.is_local and os.path.isdir(lake.root) and not dry_run:
            run_id = f"migrate-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
            folders = [lake.root, *(f"{one.root}/{one.recommender}" for one in lakes)]
            leases = [held.enter_context(Lease(f"{folder}/_lease", run_id)) for folder in folders]
        else:
            leases = []
        for name, path in _tables(spark, lakes):
            if delta_io.schema_version(spark, path) == SCHEMA_VERSION:
                continue
            for lease in leases:
                lease.check()
            schema = SCHEMAS[name]
            told[path.removeprefix(f"{lake.root}/")] = (
                delta_io.missing_columns(spark, path, schema) if dry_run else delta_io.migrate(spark, path, schema)
            )
    _print(told, as_json, dry_run)
    return DONE if told else NOTHING_TO_DO


def _tables(spark: SparkSession, lakes: list[Lake]) -> Iterator[tuple[str, str]]:
    """Name and path of every table there is."""
    found = lakes[0].shared_tables()
    for lake in lakes:
        found += lake.own_tables()
        found += lake.model_tables(registry.slots(spark, lake), lake.candidate_versions(), lake.decompositions())
    return ((name, path) for name, path in found if delta_io.exists(spark, path))


def _print(told: dict[str, list[str]], as_json: bool, dry_run: bool) -> None:
    line: dict[str, Any] = {
        "exit_code": DONE if told else NOTHING_TO_DO,
        "dry_run": dry_run,
        "schema_version": SCHEMA_VERSION,
        "tables": told,
    }
    if not as_json:
        for table, columns in told.items():
            sys.stdout.write(f"  {table}: {', '.join(columns) or 'no new columns'}\n")
        verb = "would get" if dry_run else "have"
        sys.stdout.write(f"{len(told)} tables {verb} schema version {SCHEMA_VERSION}\n")
    sys.stdout.write(json.dumps(line) + "\n")
