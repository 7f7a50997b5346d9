"""Fixtures that every test folder shares. One Spark session serves all Spark tests of a run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tests.pipelines.demo_lake import DemoRun

# Test tables are small: planning and compiling cost more than the rows. The short-lived JVMs that tests start stop at
# the quick compiler and collect garbage without a background. The shared session's lives long enough to gain from the
# slow one (the quick one alone also has room for 48 MiB of code only, which an hour of tests overflows); it interprets
# its plans, never plans anew between stages, takes small pages of memory, and spares Hadoop's and Delta's own checksums
# beside each file, which start a process per look at it. The whole pipeline under spark-submit (tests/jobs) runs with
# all of that as Spark and Delta have it, and must leave the same tables.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC")
SHARED_JVM = "-XX:+UseParallelGC"
QUICK_PLANS = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.buffer.pageSize": "1m",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.databricks.delta.writeChecksumFile.enabled": "false",
    "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.apache.hadoop.fs.local.RawLocalFs",
    # Delta keeps the snapshots of ten thousand tables for an hour; the tests make thousands, and look at few again.
    "spark.databricks.delta.delta.log.cacheSize": "100",
}


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from factorlake.config.settings import SparkSettings
    from factorlake.spark.session import open_session

    os.environ["PYSPARK_PYTHON"] = sys.executable
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", SHARED_JVM)
        session = open_session(
            SparkSettings(master="local[2]", driver_memory="3g", shuffle_partitions=2, conf=QUICK_PLANS),
            name="factorlake-tests",
        )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def demo_run(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The pipeline run once on a small demo log. Read it, or work on a copy: other tests read it too."""
    from tests.pipelines.demo_lake import run_demo

    return run_demo(spark, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def rival_lake(spark: SparkSession, demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's lake with a second model that is scored and not published. Work on a copy of it."""
    from tests.pipelines.demo_lake import RIVAL, demo_settings, run_verb

    root = Path(shutil.copytree(demo_run.root, tmp_path_factory.mktemp("rival") / "lake"))
    settings = demo_settings(root, demo_run.log, *RIVAL)
    assert [run_verb(spark, verb, settings)["exit_code"] for verb in ("train", "recommend")] == [0, 0]
    return root


@pytest.fixture
def lake_root(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the public data sets, named by FACTORLAKE_DATA."""
    folder = os.environ.get("FACTORLAKE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FACTORLAKE_DATA does not name a folder with the public data sets")
    return Path(folder)
