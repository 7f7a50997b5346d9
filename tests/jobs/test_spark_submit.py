"""Job files under a real spark-submit: exit codes, and the result line that ends stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from factorlake.tables.lease import Lease
from tests.pipelines.demo_lake import DEMO, DemoRun, overrides
from tests.reference.contents import lake_contents, published_bytes

pytestmark = pytest.mark.spark

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SUBMIT = [
    str(Path(sys.executable).with_name("spark-submit")),
    "--master",
    "local[2]",
    "--driver-memory",
    "1g",
]
# Spark's and Delta's own settings, which the demo's conf and the tests' session leave for the sake of speed.
OWN_SETTINGS = (
    "spark.sql.codegen.wholeStage=true",
    "spark.sql.codegen.factoryMode=FALLBACK",
    "spark.sql.adaptive.enabled=true",
    "spark.buffer.pageSize=64m",
    "spark.databricks.delta.stats.skipping=true",
    "spark.databricks.delta.snapshotPartitions=2",
    "spark.databricks.delta.writeChecksumFile.enabled=true",
    "spark.hadoop.fs.AbstractFileSystem.file.impl=org.apache.hadoop.fs.local.LocalFs",
)


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str

    @property
    def line(self) -> dict[str, Any]:
        """The last line of stdout, which every job ends with."""
        return dict(json.loads(self.stdout.strip().splitlines()[-1]))


def start(folder: Path, command: list[str]) -> Done:
    # As in an activated environment: spark-submit takes the first python3 on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    return Done(done.returncode, done.stdout, done.stderr)


def submit(folder: Path, job: str, *arguments: str, sets: list[str] | None = None, conf: Sequence[str] = ()) -> Done:
    """Submit a job file from ``folder``, which is not the checkout, with Spark settings that win over the job's."""
    given = [part for value in sets or [] for part in ("--set", value)]
    spark = [part for value in conf for part in ("--conf", value)]
    return start(folder, [*SUBMIT, *spark, str(JOBS / job), "--config", str(DEMO), *given, *arguments])


def test_the_whole_pipeline_runs_under_spark_submit_from_any_folder(demo_run: DemoRun, tmp_path: Path) -> None:
    root = tmp_path / "lake"
    done = submit(tmp_path, "run_pipeline.py", sets=overrides(root, demo_run.log), conf=OWN_SETTINGS)
    assert done.code == 0, done.stderr[-4000:]
    line = done.line
    assert line["run_id"].startswith("run-")
    assert (line["job"], line["exit_code"], line["reason"]) == ("run", 0, "done")
    assert line["model_version"] == demo_run.line["model_version"]
    assert line["counts"] == demo_run.line["counts"]
    assert line["versions"] == demo_run.line["versions"]
    assert Path(line["report"]).is_file()
    # Another session, other partitions, compiled plans that change on the way: the same tables to the last bit.
    assert lake_contents(root) == lake_contents(demo_run.root)


def test_a_job_with_nothing_new_ends_with_99(demo_run: DemoRun, tmp_path: Path) -> None:
    root = shutil.copytree(demo_run.root, tmp_path / "lake")
    done = submit(tmp_path, "ingest_interactions.py", sets=overrides(root, demo_run.log))
    assert (done.code, done.line["exit_code"], done.line["reason"]) == (99, 99, "no new files")


def test_a_log_without_a_needed_column_ends_with_3(demo_run: DemoRun, tmp_path: Path) -> None:
    root = shutil.copytree(demo_run.root, tmp_path / "lake")
    before = published_bytes(root)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "day.csv").write_text("listener,action,plays,at,agent\nL1,play,1,2025-03-05T12:00:00Z,web\n")
    sets = overrides(root, demo_run.log, "demo=null", f"input={tmp_path}/new")
    done = submit(tmp_path, "run_pipeline.py", sets=sets)
    assert (done.code, done.line["exit_code"]) == (3, 3)
    assert "events.columns.item_id" in done.line["reason"]
    # spark-submit sends the stderr of Python to stdout too: the line for people comes before the result line.
    assert done.stdout.strip().splitlines()[-2] == f"run: {done.line['reason']}"
    assert published_bytes(root) == before


def test_a_lake_that_another_run_writes_to_ends_the_job_with_5(demo_run: DemoRun, tmp_path: Path) -> None:
    root = tmp_path / "lake"
    with Lease(f"{root}/_lease", "run-of-somebody"):
        done = submit(tmp_path, "run_pipeline.py", sets=overrides(root, demo_run.log))
    assert (done.code, done.line["exit_code"]) == (5, 5)
    assert "run-of-somebody" in done.line["reason"]
    assert not (root / "raw_events").exists()


def test_an_unknown_setting_ends_with_2_and_the_nearest_name(tmp_path: Path) -> None:
    done = submit(tmp_path, "train_als.py", sets=["train.regularisation=0.1"])
    assert (done.code, done.line["exit_code"]) == (2, 2)
    assert "did you mean 'train.regularization'?" in done.line["reason"]


def test_a_dry_run_and_the_printed_settings_need_no_spark(tmp_path: Path) -> None:
    sets = [part for value in overrides(tmp_path / "lake", tmp_path / "log") for part in ("--set", value)]
    job = [sys.executable, str(JOBS / "run_pipeline.py"), "--config", str(DEMO), *sets]
    planned = start(tmp_path, [*job, "--dry-run"])
    assert (planned.code, planned.line["dry_run"]) == (0, True)
    assert f"{tmp_path}/lake/main/recommendations" in planned.line["writes"]
    printed = start(tmp_path, [*job, "--print-config"])
    assert printed.code == 0
    assert json.loads(printed.stdout)["train"]["rank"] == 8
    assert list(tmp_path.iterdir()) == []
