"""The few calls that differ between classic Spark, spark-submit and a platform's ready session."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession


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
_large_rows: dict[int, tuple[int, str | None]] = {}


@contextmanager
def large_rows(spark: SparkSession) -> Iterator[None]:
    """Let Arrow batches of the actions inside hold one row each: rows of megabytes would overflow a batch of many."""
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    # Fits of one session may run in several threads: the first inside saves the setting, the last one restores it.
    with _LOCK:
        inside, before = _large_rows.get(id(spark), (0, None))
        if not inside:
            before = spark.conf.get(setting, None)
            spark.conf.set(setting, "1")
        _large_rows[id(spark)] = inside + 1, before
    try:
        yield
    finally:
        with _LOCK:
            inside, before = _large_rows.pop(id(spark))
            if inside > 1:
                _large_rows[id(spark)] = inside - 1, before
            elif before is None:
                spark.conf.unset(setting)
            else:
                spark.conf.set(setting, before)


def quiet(spark: SparkSession) -> None:
    """Let only Spark's errors reach the terminal, where the session has a log of its own."""
    if not is_connect(spark):
        spark.sparkContext.setLogLevel("ERROR")
