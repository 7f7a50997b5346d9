"""The whole pipeline on a standalone cluster of two executors: the same bits as on one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from deploy.standalone.cluster import StandaloneCluster
from factorlake.config.loader import load_settings
from factorlake.pipelines.jobs import execute
from factorlake.tables import delta_io
from factorlake.tables.names import PUBLISHED_TABLES, Lake

pytestmark = [pytest.mark.spark, pytest.mark.cluster]

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ["demo.listeners=160", "demo.tracks=90", "demo.days=3", "train.rank=8", "validate.expectations=null"]


def overrides(folder: Path) -> list[str]:
    log = folder / "log"
    paths = [f"root={folder}/lake", f"input={log}/events"]
    return [
        *SMALL,
        *paths,
        f"attributes.items.input={log}/tracks.csv",
        f"attributes.users.input={log}/listeners.csv",
    ]


def published(spark: SparkSession, root: str) -> dict[str, list[tuple]]:
    """Every published value but the run's own marks; floats come back with all their bits."""
    lake = Lake.at(root, "main")
    return {
        table: sorted(map(tuple, delta_io.read(spark, lake.published(table, "live")).toPandas().astype(str).to_numpy()))
        for table in PUBLISHED_TABLES
    }


def test_two_executors_publish_the_same_bits_as_one_machine(spark: SparkSession, tmp_path: Path) -> None:
    conf = CHECKOUT / "conf" / "base" / "demo.yaml"
    here = load_settings([conf], overrides(tmp_path / "here"))
    line = execute("run", here, conf_dir=str(CHECKOUT / "conf"), open_session=lambda: spark, progress=lambda _: None)
    assert line["exit_code"] == 0, line["reason"]

    arguments = [part for value in overrides(tmp_path / "there") for part in ("--set", value)]
    both = {
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.cores.max": "2",
        "spark.executor.memory": "1g",
        "spark.sql.shuffle.partitions": "3",
    }
    with StandaloneCluster(tmp_path / "cluster") as cluster:
        done = cluster.submit(CHECKOUT / "jobs" / "run_pipeline.py", "--config", str(conf), *arguments, conf=both)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["model_version"] == line["model_version"]
    trace = Lake.at(f"{tmp_path}/there/lake", "main").own("training_trace")
    assert {row["plan"] for row in delta_io.read(spark, trace).collect()} == {"broadcast"}
    assert published(spark, f"{tmp_path}/there/lake") == published(spark, f"{tmp_path}/here/lake")
