"""The daily DAG, parsed and run by a real Airflow in the environment that `make airflow-env` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
INSPECT = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
dag = bag.dags.get("factorlake_daily")
told = {"import_errors": {name: str(error) for name, error in bag.import_errors.items()}}
if dag is not None:
    told["max_active_runs"] = dag.max_active_runs
    told["catchup"] = dag.catchup
    told["timetable"] = type(dag.timetable).__name__
    told["tasks"] = {
        task.task_id: {
            "upstream": sorted(task.upstream_task_ids),
            "retries": task.retries,
            "command": task.bash_command,
            "outlets": [asset.uri for asset in task.outlets],
            "trigger_rule": task.trigger_rule.value,
        }
        for task in dag.tasks
    }
    operator = type(dag.tasks[0])
    told["outcomes"] = {}
    for code in (0, 1, 2, 3, 4, 5, 99):
        task = operator(task_id=f"code_{code}", bash_command=f"echo line; exit {code}")
        try:
            told["outcomes"][code] = task.execute({})
        except Exception as error:
            told["outcomes"][code] = type(error).__name__
print(json.dumps(told))
"""

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-airflow: make airflow-env"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "FACTORLAKE_HOME": str(ROOT),
    }
    command = [str(PYTHON), "-c", INSPECT, str(ROOT / "deploy" / "airflow" / "dags")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_dag_is_imported_without_errors(told: Any) -> None:
    assert told["import_errors"] == {}


def test_stages_follow_each_other_in_the_order_of_the_pipeline(told: Any) -> None:
    upstream = {name: task["upstream"] for name, task in told["tasks"].items()}
    assert upstream == {
        "ingest": [],
        "validate": ["ingest"],
        "attributes": ["validate"],
        "train": ["attributes"],
        "evaluate": ["train"],
        "recommend": ["evaluate"],
        "publish": ["recommend"],
    }


def test_every_command_is_one_that_factorlake_knows(told: Any, tmp_path: Path) -> None:
    factorlake = ROOT / ".venv" / "bin" / "factorlake"
    for name, task in told["tasks"].items():
        words = task["command"].split()
        assert words[:2] == ["factorlake", name]
        done = subprocess.run(
            [factorlake, *words[1:], "--print-config", "--set", f"root={tmp_path}"],
            cwd=ROOT,
            env={**os.environ, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_one_run_at_a_time_over_a_real_data_interval(told: Any) -> None:
    assert told["max_active_runs"] == 1
    assert told["catchup"] is False
    assert told["timetable"] == "CronDataIntervalTimetable"


def test_stage_with_nothing_to_do_does_not_stop_the_later_ones(told: Any) -> None:
    assert {task["trigger_rule"] for task in told["tasks"].values()} == {"none_failed"}
    assert all(task["retries"] == 2 for task in told["tasks"].values())


def test_exit_codes_become_the_states_they_mean(told: Any) -> None:
    assert told["outcomes"] == {
        "0": "line",
        "1": "AirflowException",
        "2": "AirflowFailException",
        "3": "AirflowFailException",
        "4": "AirflowException",
        "5": "AirflowException",
        "99": "AirflowSkipException",
    }


def test_publishing_announces_the_published_tables(told: Any) -> None:
    published = {"factorlake://user_factors", "factorlake://item_factors", "factorlake://recommendations"}
    assert {uri.rstrip("/") for uri in told["tasks"]["publish"]["outlets"]} == published
