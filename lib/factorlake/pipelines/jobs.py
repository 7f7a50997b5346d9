"""The jobs by verb, and what surrounds each: session, leases, run record, result line."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from factorlake.background import import_beside
from factorlake.config.settings import Settings
from factorlake.errors import DONE, NOTHING_TO_DO, FactorlakeError, Terminated
from factorlake.pipelines.context import Context, JobResult, Progress
from factorlake.pipelines.termination import stopping_when_told
from factorlake.reporting.masking import masked_settings
from factorlake.spark.compat import job_settings
from factorlake.tables import registry
from factorlake.tables.lease import Lease
from factorlake.tables.names import Lake

log = logging.getLogger(__name__)

STOPPED = "told to stop (SIGTERM); what was written is sound, and the same command goes on from there"


@dataclass(frozen=True)
class Job:
    """One verb: the pipeline module that runs it, its script, what it writes."""

    verb: str
    script: str
    help: str
    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    everywhere: bool = False
    """Whether it writes the tables of every recommender, not only of the settings'."""

    @property
    def module(self) -> str:
        return f"factorlake.pipelines.{self.verb}"


JOBS = {
    job.verb: job
    for job in (
        Job(
            "ingest",
            "ingest_interactions",
            "Take new files of the log into raw_events.",
            ("raw_events", "ingest_ledger"),
        ),
        Job("attributes", "ingest_attributes", "Take names and attributes.", ("user_attributes", "item_attributes")),
        Job(
            "validate",
            "validate_interactions",
            "Accept or quarantine each new record; refuse bad batches.",
            ("interactions", "quarantine", "validation_results", "users", "items"),
        ),
        Job(
            "replay",
            "replay_quarantine",
            "Move records in quarantine that the rules of now accept.",
            ("interactions", "quarantine", "validation_results", "users", "items"),
        ),
        Job("train", "train_als", "Train a candidate model.", (), ("models", "training_trace", "candidates")),
        Job(
            "sgd",
            "train_sgd",
            "Train a candidate by stochastic gradients.",
            (),
            ("models", "training_trace", "evaluation", "candidates"),
        ),
        Job(
            "decompose",
            "decompose_matrix",
            "Truncated SVD, robust PCA or NMF of a table, a picture, a clip or the log.",
            (),
            ("decompositions", "models"),
        ),
        Job(
            "evaluate",
            "evaluate_model",
            "Judge a candidate beside baselines.",
            (),
            ("evaluation", "calibrations", "models"),
        ),
        Job("tune", "tune_als", "Search settings of a model on held-out pairs.", (), ("trials",)),
        Job("recommend", "recommend_top_k", "Write a candidate's lists.", (), ("candidates", "models")),
        Job(
            "publish",
            "publish_model",
            "Make a candidate live.",
            (),
            ("user_factors", "item_factors", "recommendations", "publications", "models"),
        ),
        Job(
            "rollback",
            "rollback_model",
            "Bring back what an earlier publication made live.",
            (),
            ("user_factors", "item_factors", "recommendations", "publications", "models"),
        ),
        Job(
            "maintain",
            "maintain_tables",
            "Compact and vacuum tables, remove candidates that nobody can go back to.",
            ("raw_events", "interactions"),
            ("models", "candidates", "recommendations"),
        ),
        Job(
            "forget",
            "forget_user",
            "Remove users from every table.",
            (
                *("raw_events", "ingest_ledger", "quarantine", "interactions", "users", "user_attributes"),
                "erasures",
            ),
            ("user_factors", "recommendations", "publications", "models", "candidates", "decompositions"),
            everywhere=True,
        ),
        Job(
            "run",
            "run_pipeline",
            "All jobs in turn, from the log to published lists.",
            ("raw_events", "interactions", "quarantine"),
            ("models", "recommendations", "publications"),
        ),
    )
}


def execute(
    verb: str,
    settings: Settings,
    *,
    conf_dir: str,
    open_session: Callable[[], SparkSession],
    progress: Progress,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run one job and return its result line: run id, counts, versions, model, exit code and reason.

    The run is recorded in the runs table however it ends. Errors that people can act on become a reason and an exit
    code; anything else is logged with its trace and becomes exit code 1.
    """
    job = JOBS[verb]
    lake = Lake.at(settings.root, settings.recommender)
    started = datetime.now(UTC)
    run_id = f"{verb}-{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    with stopping_when_told() as termination:
        spark: SparkSession | None = None
        try:
            with ExitStack() as held:
                lease = _take_leases(held, job, lake, run_id)
                # The JVM starts in a process of its own, which takes as long as these modules.
                module = import_beside(job.module)
                spark = termination.session = open_session()
                context = Context(spark, settings, lake, run_id, progress, conf_dir, lease)
                with job_settings(spark):
                    result = module.result().run(context, **(options or {}))
            termination.settle()
        except (Exception, Terminated) as error:
            termination.settle()
            result = _ended_by(verb, error, termination.asked)
        stopped = termination.asked and result.exit_code not in (DONE, NOTHING_TO_DO)
        if stopped:
            result = JobResult(exit_code=Terminated.exit_code, reason=STOPPED)
        finished = datetime.now(UTC)
        line = {
            "run_id": run_id,
            "job": verb,
            "recommender": settings.recommender,
            "exit_code": result.exit_code,
            "reason": result.reason,
            "counts": result.counts,
            "versions": result.versions,
            "model_version": result.model_version,
            "seconds": round((finished - started).total_seconds(), 3),
            **result.details,
        }
        if spark is not None:
            state = {DONE: "done", NOTHING_TO_DO: "nothing", 3: "refused"}.get(result.exit_code, "failed")
            fields = ("run_id", "job", "recommender", "exit_code", "reason", "counts", "versions", "model_version")
            row = {name: line[name] for name in fields} | {
                "state": "aborted" if stopped else state,
                "started_at": started,
                "finished_at": finished,
                "seconds": line["seconds"],
                "settings": json.dumps(masked_settings(settings.model_dump(by_alias=True, mode="json"))),
            }
            try:
                registry.record_run(spark, lake, row)
            except Exception:
                # The line still tells how the job ended, whatever became of the session.
                log.exception("the run could not be recorded in the runs table")
    return line


def _ended_by(verb: str, error: BaseException, told_to_stop: bool) -> JobResult:
    """Return how a run ended that ended by an error. Of a run that was told to stop every error is its end."""
    if told_to_stop:
        return JobResult(exit_code=Terminated.exit_code, reason=STOPPED)
    if isinstance(error, FactorlakeError):
        return JobResult(exit_code=error.exit_code, reason=str(error))
    if isinstance(error, PySparkException):
        log.error("job %s failed in Spark", verb, exc_info=error)
        return JobResult(exit_code=1, reason=f"Spark: {str(error).splitlines()[0]}")
    log.error("job %s failed", verb, exc_info=error)
    return JobResult(exit_code=1, reason=f"{type(error).__name__}: {error}")


def _take_leases(held: ExitStack, job: Job, lake: Lake, run_id: str) -> Callable[[], int]:
    """Take the leases of the tables a job writes; where the root is no disk, writers are kept apart by the
    scheduler."""
    if not lake.is_local:
        log.warning("no lease on %s: let the scheduler run one job at a time", lake.root)
        return lambda: 0
    leases = []
    if job.shared:
        leases.append(held.enter_context(Lease(f"{lake.root}/_lease", run_id)))
    own = [lake.recommender] if job.own else []
    own += lake.other_recommenders() if job.everywhere else []
    for recommender in sorted(own):
        leases.append(held.enter_context(Lease(f"{lake.root}/{recommender}/_lease", run_id)))
    return lambda: [lease.check() for lease in leases][-1]
