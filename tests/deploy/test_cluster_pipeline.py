"""The whole pipeline on a standalone cluster of two executors: the same bits as on one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from deploy.standalone.cluster import StandaloneCluster
from factorlake.tables import delta_io
from factorlake.tables.names import PUBLISHED_TABLES, Lake
from tests.pipelines.demo_lake import DEMO, DemoRun, overrides

pytestmark = [pytest.mark.spark, pytest.mark.cluster]

CHECKOUT = Path(__file__).resolve().parents[2]


def published(spark: SparkSession, root: str) -> dict[str, list[tuple]]:
    """Every published value but the run's own marks; floats come back with all their bits."""
    lake = Lake.at(root, "main")
    return {
        table: sorted(map(tuple, delta_io.read(spark, lake.published(table, "live")).toPandas().astype(str).to_numpy()))
        for table in PUBLISHED_TABLES
    }


def test_two_executors_publish_the_same_bits_as_one_machine(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    arguments = [part for value in overrides(root, demo_run.log) for part in ("--set", value)]
    both = {
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.cores.max": "2",
        "spark.executor.memory": "1g",
        "spark.sql.shuffle.partitions": "3",
    }
    with StandaloneCluster(tmp_path / "cluster") as cluster:
        done = cluster.submit(CHECKOUT / "jobs" / "run_pipeline.py", "--config", str(DEMO), *arguments, conf=both)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["model_version"] == demo_run.line["model_version"]
    trace = Lake.at(str(root), "main").own("training_trace")
    assert {row["plan"] for row in delta_io.read(spark, trace).collect()} == {"broadcast"}
    assert published(spark, str(root)) == published(spark, str(demo_run.root))
