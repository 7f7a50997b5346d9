"""Eight threads append to a table beside two that merge and one that compacts: each acknowledged row is there once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.reference.contents import read_table

pytestmark = [pytest.mark.spark, pytest.mark.faults]

TABLE = SCHEMAS["users"]
ROWS = 10
APPENDERS, MERGERS = 8, 2
# Writes of each, however slow the machine is; one compaction is enough, since the last may find nothing to do.
AT_LEAST = 3


class Writers:
    """Threads that write to one table until they are told to stop, and the ids whose commits were acknowledged."""

    def __init__(self, spark: SparkSession, path: str) -> None:
        self.spark, self.path = spark, path
        self.acknowledged: list[str] = []
        self.conflicts: list[str] = []
        self.unexpected: list[str] = []
        self.over = threading.Event()

    def append(self, session: SparkSession, name: str, number: int) -> bool:
        ids = [f"{name}-{number}-{row}" for row in range(ROWS)]
        rows = [{"id": one, "index": 0} for one in ids]
        commit = delta_io.append_rows(session, rows, self.path, TABLE, run_id=name, app_id=f"{name}-{number}")
        assert not commit.skipped
        self.acknowledged += ids
        return True

    def merge(self, session: SparkSession, name: str, number: int) -> bool:
        """Insert new ids, and renew some that were inserted before."""
        ids = [f"{name}-{row}" for row in range(number * ROWS // 2, number * ROWS // 2 + ROWS)]
        source = session.createDataFrame([(one, number) for one in ids], "id string, index long")
        source.createOrReplaceTempView("source")
        session.sql(
            f"MERGE INTO delta.`{self.path}` AS t USING source AS s ON t.id = s.id "
            "WHEN MATCHED THEN UPDATE SET t.index = s.index "
            "WHEN NOT MATCHED THEN INSERT (id, index) VALUES (s.id, s.index)"
        )
        self.acknowledged += [one for one in ids if one not in self.merged[name]]
        self.merged[name].update(ids)
        return True

    def compact(self, session: SparkSession, name: str, number: int) -> bool:
        return delta_io.compact(session, self.path)

    def run(self, seconds: float) -> None:
        jobs: list[tuple[str, Callable[[SparkSession, str, int], bool], int]] = [
            *((f"append{n}", self.append, AT_LEAST) for n in range(APPENDERS)),
            *((f"merge{n}", self.merge, AT_LEAST) for n in range(MERGERS)),
            ("compact", self.compact, 1),
        ]
        self.merged: dict[str, set[str]] = {name: set() for name, *_ in jobs}
        threads = [threading.Thread(target=self._repeat, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in threads:
            thread.join()

    def _repeat(self, name: str, write: Callable[[SparkSession, str, int], bool], at_least: int) -> None:
        # A commit is read back from its session's note of it.
        session = self.spark.newSession()
        number = 0
        try:
            while number < at_least or not self.over.is_set():
                try:
                    number += write(session, name, number)
                except Exception as error:  # Delta's conflicts come as errors of py4j's or of PySpark's own
                    if write == self.append or "CONCURRENT" not in str(error).upper():
                        raise
                    # Who read what others changed is refused whole: nothing of it is acknowledged.
                    self.conflicts.append(name)
        except BaseException as error:
            self.unexpected.append(str(error))


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.soak)])
def test_every_acknowledged_row_of_writers_at_once_is_there_once(
    spark: SparkSession, tmp_path: Path, seconds: float
) -> None:
    writers = Writers(spark, str(tmp_path / "users"))
    delta_io.create(spark, writers.path, TABLE)
    writers.run(seconds)
    assert writers.unexpected == []
    assert len(writers.acknowledged) >= APPENDERS * AT_LEAST * ROWS
    assert set(writers.conflicts) <= {"compact", *(f"merge{n}" for n in range(MERGERS))}
    assert Counter(read_table(writers.path)["id"].to_pylist()) == Counter(writers.acknowledged)
