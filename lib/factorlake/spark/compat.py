"""The few calls that differ between classic Spark, spark-submit and a platform's ready session."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from factorlake.paths import has_scheme

log = logging.getLogger(__name__)

# What every job needs of its session, also of one that a platform started.
JOB_SETTINGS = {
    # Times without a zone are read as UTC.
    "spark.sql.session.timeZone": "UTC",
    # Else Delta refuses to read versions older than a week, though their files are there: a live model's factors, the
    # events that a model was trained on.
    "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
}


def under_spark_submit() -> bool:
    """Whether spark-submit started this process, and so its JVM and settings, before our code ran."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def submitted_settings() -> dict[str, str]:
    """The settings spark-submit was given; empty outside spark-submit."""
    if not under_spark_submit():
        return {}
    from pyspark import SparkConf, SparkContext

    # Until the gateway is up a SparkConf knows nothing of what spark-submit was given.
    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())


def start_jvm(settings: Mapping[str, str]) -> None:
    """Start the JVM that a session with these settings will use, in a process group of its own, unless there is one.

    Who stops a job by a signal (`timeout`, schedulers) sends it to the job's whole group. The JVM must outlive it: it
    writes down how the job ended, and ends when the job's process does.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    remote = "SPARK_REMOTE" in os.environ or "SPARK_CONNECT_MODE_ENABLED" in os.environ or "spark.remote" in settings
    if remote or under_spark_submit() or os.name != "posix" or SparkContext._gateway:
        return
    conf = SparkConf().setAll(list(settings.items()))
    SparkContext._ensure_initialized(gateway=launch_gateway(conf, {"process_group": 0}), conf=conf)


def is_connect(spark: SparkSession) -> bool:
    """Whether the session speaks Spark Connect, which has no context and no executors to ask."""
    return "connect" in type(spark).__module__


def is_local(spark: SparkSession) -> bool:
    """Whether driver and workers are this machine."""
    return (spark.conf.get("spark.master", None) or "").partition("[")[0] == "local" and not is_connect(spark)


def task_slots(spark: SparkSession) -> int:
    """How many tasks run at once; at least 1."""
    if is_connect(spark):
        return max(1, int(spark.conf.get("spark.default.parallelism", None) or os.cpu_count() or 1))
    return max(1, spark.sparkContext.defaultParallelism)


def optimized_plan(frame: DataFrame) -> Any:
    """Return what Spark's optimizer makes of a frame, an object of the JVM; None where the session shows none."""
    if is_connect(frame.sparkSession):
        return None
    return frame._jdf.queryExecution().optimizedPlan()


@contextmanager
def named_jobs(spark: SparkSession, description: str) -> Iterator[None]:
    """Show ``description`` beside the jobs started inside in Spark's own pages, where the session can."""
    if is_connect(spark):
        yield
        return
    context, setting = spark.sparkContext, "spark.job.description"
    before = context.getLocalProperty(setting)
    context.setLocalProperty(setting, description)
    try:
        yield
    finally:
        # Null removes it.
        context.setLocalProperty(setting, before)  # type: ignore[arg-type]


def keep(frame: DataFrame) -> DataFrame:
    """Cache a frame that several actions read, where the session can; otherwise it is computed again."""
    try:
        return frame.persist()
    except Exception as error:  # serverless compute refuses with an error of its own kind
        if "PERSIST" in str(error).upper() or "NOT_SUPPORTED" in str(error).upper():
            return frame
        raise


def release(frame: DataFrame) -> None:
    """Give up what `keep` cached."""
    frame.unpersist()


_LOCK = threading.Lock()
_lent: dict[tuple[int, str], tuple[str | None, list[str]]] = {}
"""By session and setting: what was there, and what those inside ask for."""
BATCH_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
SPARKS_BATCH_ROWS = 10_000


@contextmanager
def _lent_setting(spark: SparkSession, setting: str, value: str) -> Iterator[None]:
    """Give a setting a value inside. Several threads of one session may be inside: the first saves what was there, the
    last one restores it, and of several numbers the least one counts meanwhile."""
    key = (id(spark), setting)
    with _LOCK:
        before, wanted = _lent.get(key) or (spark.conf.get(setting, None), [])
        spark.conf.set(setting, _least([*wanted, value]))
        _lent[key] = before, [*wanted, value]
    try:
        yield
    finally:
        with _LOCK:
            before, wanted = _lent.pop(key)
            wanted = [*wanted]
            wanted.remove(value)
            # Where the session is gone, what was raised inside tells why.
            with suppress(Exception):
                if wanted:
                    spark.conf.set(setting, _least(wanted))
                elif before is None:
                    spark.conf.unset(setting)
                else:
                    spark.conf.set(setting, before)
            if wanted:
                _lent[key] = before, wanted


def _least(values: Sequence[str]) -> str:
    return min(values, key=lambda value: int(value) if value.isdecimal() else 0)


def large_rows(spark: SparkSession) -> AbstractContextManager[None]:
    """Let Arrow batches of the actions inside hold one row each: rows of megabytes would overflow a batch of many."""
    return _lent_setting(spark, BATCH_ROWS, "1")


@contextmanager
def _as_the_session_lets(setting: str) -> Iterator[None]:
    """Leave a setting as it is where the platform refuses to have it asked for or changed."""
    try:
        yield
    except PySparkException as error:
        # Serverless platforms let few settings be changed.
        log.info("%s stays as the session has it: %s", setting, str(error).partition("\n")[0])


@contextmanager
def small_rows(spark: SparkSession) -> Iterator[None]:
    """Let Arrow batches of the actions inside hold a hundred thousand rows, where the session lets that be set and does
    not ask for fewer than Spark itself does: for rows of a few numbers a batch costs more than its rows."""
    with ExitStack() as lent:
        with _as_the_session_lets(BATCH_ROWS):
            if int(spark.conf.get(BATCH_ROWS, None) or SPARKS_BATCH_ROWS) >= SPARKS_BATCH_ROWS:
                lent.enter_context(_lent_setting(spark, BATCH_ROWS, "100000"))
        yield


@contextmanager
def job_settings(spark: SparkSession) -> Iterator[None]:
    """Give a session that a platform started what JOB_SETTINGS says, inside."""
    with ExitStack() as lent:
        for setting, value in JOB_SETTINGS.items():
            with _as_the_session_lets(setting):
                lent.enter_context(_lent_setting(spark, setting, value))
        yield


def cancel_jobs(spark: SparkSession) -> None:
    """End what the session is computing; whoever waits for it gets an error. May be called from another thread."""
    if is_connect(spark):
        spark.interruptAll()
    else:
        spark.sparkContext.cancelAllJobs()


def waits_for_jvm(frame: FrameType | None) -> bool:
    """Whether the code at ``frame`` is in the middle of a call to the JVM. To leave it there would leave the answer in
    the line, and the JVM at work on what it was asked."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("py4j."):
            return True
        frame = frame.f_back
    return False


def remove_folder(spark: SparkSession, path: str) -> None:
    """Remove a folder that Spark wrote, where it can be: a store's only through a session with a JVM of its own."""
    if not has_scheme(path):
        shutil.rmtree(path, ignore_errors=True)
    elif is_connect(spark):
        log.warning("%s is left over: Spark Connect has no call that removes it", path)
    else:
        jvm: Any = spark._jvm
        folder = jvm.org.apache.hadoop.fs.Path(path)
        folder.getFileSystem(spark._jsc.hadoopConfiguration()).delete(folder, True)


def quiet(spark: SparkSession) -> None:
    """Let only Spark's errors reach the terminal, where the session has a log of its own."""
    if not is_connect(spark):
        spark.sparkContext.setLogLevel("ERROR")
