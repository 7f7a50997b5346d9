"""Daily factorlake pipeline: one task a stage, from new log files to published recommendations.

Set in the scheduler's and the workers' environment:
FACTORLAKE_HOME    the checkout, set up by `make setup` (default: the one this file stands in)
FACTORLAKE_CONFIG  the conf file, relative to FACTORLAKE_HOME (default: conf/base/demo.yaml)
FACTORLAKE_MASTER  a Spark master: then each stage is a spark-submit of its job file; without it Spark runs in
                   the task's own process

A task's last line on stdout, the job's JSON result, becomes its XCom.
"""

from __future__ import annotations

import os
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, CronDataIntervalTimetable

HOME = Path(os.environ.get("FACTORLAKE_HOME", Path(__file__).resolve().parents[3]))
CONFIG = os.environ.get("FACTORLAKE_CONFIG", "conf/base/demo.yaml")
MASTER = os.environ.get("FACTORLAKE_MASTER")

# Exit codes: 2 settings, 3 refused by a gate. Trying again changes nothing; a person or new data does.
NO_RETRY = {2, 3}
NOTHING_TO_DO = 99
PASSED_ON = ("HOME", "JAVA_HOME", "SPARK_CONF_DIR")

# Verb, job file, the stages it waits for, what it brings up to date.
STAGES: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("ingest", "ingest_interactions", (), ()),
    ("validate", "validate_interactions", ("ingest",), ("interactions",)),
    ("attributes", "ingest_attributes", ("validate",), ()),
    ("train", "train_als", ("attributes",), ()),
    ("evaluate", "evaluate_model", ("train",), ()),
    ("recommend", "recommend_top_k", ("evaluate",), ()),
    ("publish", "publish_model", ("recommend",), ("user_factors", "item_factors", "recommendations")),
)


class StageOperator(BashOperator):
    """A stage as a shell command: exit 99 skips it, 2 and 3 fail it for good, any other is tried again."""

    def execute(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except (AirflowSkipException, AirflowFailException):
            raise
        except AirflowException as error:
            code = re.search(r"exit code (\d+)", str(error))
            if code is not None and int(code.group(1)) in NO_RETRY:
                raise AirflowFailException(f"{self.task_id} ended with {code.group(1)}; not tried again") from error
            raise


def command(verb: str, job: str) -> str:
    """Return the shell command of a stage."""
    submitted = ["spark-submit", "--master", str(MASTER), f"jobs/{job}.py"]
    words = submitted if MASTER else ["factorlake", verb]
    return shlex.join([*words, "--config", CONFIG, "--json"])


with DAG(
    dag_id="factorlake_daily",
    description="New log files to published recommendations",
    # A plain cron string would give every run an empty data interval.
    schedule=CronDataIntervalTimetable("0 3 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # One writer at a time; a second run would only end with exit code 5.
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=6),
    },
    doc_md=__doc__,
    tags=["factorlake"],
) as dag:
    tasks: dict[str, StageOperator] = {}
    for verb, job, waits_for, brings in STAGES:
        tasks[verb] = StageOperator(
            task_id=verb,
            bash_command=command(verb, job),
            cwd=str(HOME),
            env={
                "PATH": f"{HOME}/.venv/bin:/usr/local/bin:/usr/bin:/bin",
                "PYSPARK_PYTHON": f"{HOME}/.venv/bin/python",
                **{name: os.environ[name] for name in ("JAVA_HOME", "HOME", "SPARK_CONF_DIR") if name in os.environ},
            },
            skip_on_exit_code=NOTHING_TO_DO,
            # A stage with nothing to do does not stop the later ones: each sees for itself, so that what a
            # run left undone is done by the next.
            trigger_rule="none_failed",
            outlets=[Asset(f"factorlake://{table}") for table in brings],
        )
        for earlier in waits_for:
            tasks[earlier] >> tasks[verb]
