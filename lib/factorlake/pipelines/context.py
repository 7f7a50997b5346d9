"""What every pipeline is handed, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from factorlake.config.settings import Settings
from factorlake.tables import delta_io, registry
from factorlake.tables.delta_io import Commit
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS, TableSchema

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Context:
    """One run's surroundings: session, settings, tables, and where to tell progress.

    A job writes through it alone: the lease is asked before every write starts, and the run's id goes into each commit.
    """

    spark: SparkSession
    settings: Settings
    lake: Lake
    run_id: str
    progress: Progress
    conf_dir: str
    """The conf folder that named things (expectations) are looked up in."""
    lease: Callable[[], int]
    """Number of the lease this run holds; raises LeaseHeldError once another run has followed it."""

    @contextmanager
    def _fenced(self) -> Iterator[int]:
        """Ask the lease before a write, and when it fails: a run that slept in the middle of a write finds the table
        changed under it, because another has followed."""
        number = self.lease()
        try:
            yield number
        except Exception:
            # Delta's conflicts come as errors of py4j's or of PySpark's own.
            self.lease()
            raise

    def append(
        self,
        frame: DataFrame,
        path: str,
        schema: TableSchema,
        *,
        app_id: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> Commit:
        """`delta_io.append` while the lease is this run's."""
        with self._fenced():
            return delta_io.append(self.spark, frame, path, schema, run_id=self.run_id, app_id=app_id, details=details)

    def append_rows(
        self, rows: list[dict[str, Any]], path: str, schema: TableSchema, *, app_id: str | None = None
    ) -> Commit:
        """`delta_io.append_rows` while the lease is this run's."""
        with self._fenced():
            return delta_io.append_rows(self.spark, rows, path, schema, run_id=self.run_id, app_id=app_id)

    def overwrite(
        self, frame: DataFrame, path: str, schema: TableSchema, *, details: dict[str, Any] | None = None
    ) -> Commit:
        """`delta_io.overwrite` while the lease is this run's; its number goes into the commit."""
        with self._fenced() as number:
            noted = {**(details or {}), "lease": number}
            return delta_io.overwrite(self.spark, frame, path, schema, run_id=self.run_id, details=noted)

    def read_known(self, table: str) -> tuple[DataFrame, int]:
        """Return a shared table at the version that `select.as_of` knew, the latest without it, and that version: −1,
        and no rows, where there was none yet."""
        path, as_of = self.lake.shared(table), self.settings.select.as_of
        spark, schema = self.spark, SCHEMAS[table]
        version = delta_io.version(spark, path) if as_of is None else delta_io.version_at(spark, path, as_of)
        if version < 0:
            return spark.createDataFrame([], schema.fields), version
        return delta_io.with_columns_of(delta_io.read(spark, path, version), schema), version

    def erase(self, path: str, schema: TableSchema, keys: DataFrame, *, noted: dict[str, str] | None = None) -> int:
        """`delta_io.erase` while the lease is this run's."""
        with self._fenced():
            return delta_io.erase(self.spark, path, schema, keys, run_id=self.run_id, noted=noted)

    def note(self, path: str, schema: TableSchema, noted: dict[str, str]) -> None:
        """`delta_io.note` while the lease is this run's."""
        with self._fenced():
            delta_io.note(self.spark, path, schema, noted)

    def record_model(self, row: dict[str, Any]) -> int:
        """`registry.record_model` while the lease is this run's."""
        with self._fenced():
            return registry.record_model(self.spark, self.lake, row, self.run_id)


@dataclass
class JobResult:
    """How a job ended. The command line prints it as one JSON object, the runs table keeps it."""

    exit_code: int = 0
    reason: str = "done"
    counts: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    model_version: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
