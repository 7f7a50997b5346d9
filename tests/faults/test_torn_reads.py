"""Readers of published tables, by delta-rs, while publishes and rollbacks die after each of their commits."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from factorlake.tables import delta_io
from factorlake.tables.names import PUBLISHED_TABLES
from tests.faults.dying import Killed, die_after
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb

pytestmark = [pytest.mark.spark, pytest.mark.faults]


def rows_at(path: Path, version: int | None = None) -> tuple[str, ...]:
    return tuple(sorted(map(str, DeltaTable(str(path), version=version).to_pyarrow_table().to_pylist())))


class Reader:
    """Looks at the tables as a service would, and keeps what it found wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets: dict[str, dict[tuple[str, ...], str]] = {table: {} for table in PUBLISHED_TABLES}
        self.wrong: list[str] = []

    def learn(self, model: str) -> None:
        """Take what lies in the tables for the rows of a model."""
        for table, known in self.sets.items():
            known[rows_at(self.folder / table)] = model

    def look(self) -> str:
        """Read each table by its latest commit, and all by the newest publication; return whose model that is."""
        for table, known in self.sets.items():
            if rows_at(self.folder / table) not in known:
                self.wrong.append(f"{table} is no published set by its latest commit")
        rows = DeltaTable(str(self.folder / "publications")).to_pyarrow_table().to_pylist()
        newest: dict[str, Any] = max(rows, key=lambda row: row["published_at"])
        versions = dict(newest["versions"])
        pinned = {known.get(rows_at(self.folder / table, versions[table])) for table, known in self.sets.items()}
        if pinned != {newest["model_version"]}:
            self.wrong.append(f"the versions of {newest['run_id']} hold {pinned}")
        return str(newest["model_version"])

    def look_while(self, work: Callable[[], None]) -> int:
        """Look again and again in a thread while ``work`` goes on; return how often."""
        done, looks = threading.Event(), 0

        def watch() -> None:
            nonlocal looks
            while not done.is_set():
                try:
                    self.look()
                except Exception as error:  # what a thread raises is lost
                    self.wrong.append(repr(error))
                looks += 1

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()
        return looks


def test_readers_meet_published_sets_only_while_publishes_and_rollbacks_die(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    settings, first = demo_settings(root, demo_run.log, "train.rank=3", "recommend.k=5"), demo_run.line["model_version"]
    reader = Reader(root / "main")
    reader.learn(first)
    other = run_verb(spark, "train", settings)["model_version"]
    assert run_verb(spark, "recommend", settings)["exit_code"] == 0
    assert run_verb(spark, "publish", settings, force=True)["exit_code"] == 0
    reader.learn(other)

    def die_until_live(model: str, verb: str, **options: Any) -> None:
        """Run a verb that dies after the next of its commits each time: three tables, then the publication."""
        for deaths in range(4):
            assert reader.look() != model, f"live after {deaths} commits"
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(delta_io, "_write", die_after(1, delta_io._write))
                run_verb(spark, verb, settings, **options)
        assert reader.look() == model

    def work() -> None:
        die_until_live(first, "rollback")
        die_until_live(other, "publish", force=True)

    assert reader.look() == other
    assert reader.look_while(work) > 0
    assert reader.wrong == []
