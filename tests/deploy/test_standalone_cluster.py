"""The standalone cluster on loopback: two workers that share nothing, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.standalone import cluster
from deploy.standalone.cluster import ClusterError, StandaloneCluster

pytestmark = [pytest.mark.spark, pytest.mark.cluster]

WHERE_TASKS_RUN = """
import json, os, sys
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession


def where(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    rows = sum(batch.num_rows for batch in batches)
    told = json.dumps([os.environ["SPARK_LOCAL_DIRS"], sys.executable])
    yield pa.RecordBatch.from_pydict({"told": [told], "rows": [rows]})


spark = SparkSession.builder.getOrCreate()
found = spark.range(64).repartition(16).mapInArrow(where, "told string, rows long").collect()
print(json.dumps({"told": sorted({row.told for row in found}), "rows": sum(row.rows for row in found)}))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    with StandaloneCluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def processes_of(folder: Path) -> list[int]:
    """Return the processes whose command line or environment names ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def test_tasks_run_on_two_executors_with_a_scratch_folder_each(running: StandaloneCluster, tmp_path: Path) -> None:
    script = tmp_path / "where.py"
    script.write_text(WHERE_TASKS_RUN, encoding="utf-8")
    # The script waits for nobody: without this, all tasks may run on the executor that came up first.
    both = {"spark.scheduler.minRegisteredResourcesRatio": "1.0", "spark.cores.max": "2"}
    done = running.submit(script, conf=both)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    told = [json.loads(text) for text in answer["told"]]
    assert answer["rows"] == 64
    assert {python for _, python in told} == {sys.executable}
    scratches = {Path(scratch).relative_to(running.folder).parts[0] for scratch, _ in told}
    assert scratches == {"worker-1", "worker-2"}


def test_submit_keeps_the_exit_code_of_the_script(running: StandaloneCluster, tmp_path: Path) -> None:
    script = tmp_path / "refuse.py"
    script.write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    assert running.submit(script).returncode == 3


def test_everything_listens_on_loopback_only(running: StandaloneCluster) -> None:
    own = {f"pid={pid}," for pid in processes_of(running.folder)}
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listening.splitlines() if any(pid in line for pid in own)]
    assert lines
    assert all("127.0.0.1" in line[3] for line in lines), lines


def test_leaving_the_cluster_ends_every_process(tmp_path: Path) -> None:
    with StandaloneCluster(tmp_path, workers=1):
        assert processes_of(tmp_path)
    assert processes_of(tmp_path) == []


@pytest.mark.faults
def test_cluster_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    cluster.start(folder, workers=1)
    holder = int((folder / "pid").read_text(encoding="utf-8"))
    assert len(processes_of(folder)) > 1
    os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + cluster.STOP_SECONDS
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(folder) == []


def test_a_master_that_cannot_start_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ClusterError, match=r"master ended with .*master\.log"), StandaloneCluster(tmp_path):
        pass


def test_stop_without_a_cluster_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no cluster is up"):
        cluster.stop(tmp_path / "none")
