"""Open the Spark session every job uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

import factorlake
from factorlake.config.settings import SparkSettings
from factorlake.spark.class_archive import archive_options
from factorlake.spark.compat import JOB_SETTINGS, quiet, start_jvm, submitted_settings, under_spark_submit
from factorlake.texts import SECRETS

DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}

# Delta's own defaults are made for thousands of files and cost seconds on every small commit.
SMALL_TABLES = {
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
    "spark.databricks.delta.stats.collect": "true",
}

JAVA_OPTIONS = "spark.driver.extraJavaOptions"

# A short job is over before the JVM's optimizing compiler has paid for itself: with HotSpot's own thresholds two fifths
# of the processor time of the demo's JVM are its, with these three tenths of less (`ps -L -o comm,time -p` of the JVM).
# A long job waits seconds longer for its loops to be optimized.
LATER_OPTIMIZATION = (
    "-XX:Tier4InvocationThreshold=20000 -XX:Tier4MinInvocationThreshold=3000 "
    "-XX:Tier4CompileThreshold=40000 -XX:Tier4BackEdgeThreshold=120000"
)

# Recomputed shuffles whose contents differ are noticed and their readers run again.
SAFE_RECOMPUTE = {
    "spark.sql.shuffle.orderIndependentChecksum.enabled": "true",
    "spark.sql.shuffle.orderIndependentChecksum.enableFullRetryOnMismatch": "true",
}

# A Python worker that hangs would hold its job for ever. Spark counts the time in which no data comes from it or goes
# to it, which in a long batch of honest work may be minutes. It is ended then, and its task tried again.
HUNG_WORKERS = {
    "spark.python.worker.idleTimeoutSeconds": "3600",
    "spark.python.worker.killOnIdleTimeout": "true",
}


def package_folder() -> str:
    """Folder that must be on a worker's path so that it can import this package."""
    return str(Path(factorlake.__file__).resolve().parent.parent)


def is_packaged() -> bool:
    """Whether workers import this package from an environment (installed), not from a shipped zip."""
    return os.path.isdir(package_folder())


def session_settings(settings: SparkSettings, master: str) -> dict[str, str]:
    """All Spark settings of a session on ``master`` that we start, before spark-submit's own are laid over them."""
    chosen = {
        **DELTA,
        **SMALL_TABLES,
        **SAFE_RECOMPUTE,
        **HUNG_WORKERS,
        **JOB_SETTINGS,
        "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
        # A limit in bytes makes Spark measure the whole batch again after every row, which costs more than to write
        # the row. Frames of a few large rows are read with `compat.large_rows` instead.
        "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
        # PySpark asks the JVM five times for every column expression, to name its line in an error: a third of all that
        # a job's driver asks.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        # In event logs, Spark's pages and its own messages. Its default knows of passwords and a few kinds of keys.
        "spark.redaction.regex": SECRETS,
        "spark.driver.maxResultSize": "0",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.driver.memory": settings.driver_memory or "4g",
        "spark.master": master,
    }
    if is_packaged():
        chosen["spark.executorEnv.PYTHONPATH"] = package_folder()
        chosen["spark.python.daemon.module"] = "factorlake.spark.daemon"
    if settings.shuffle_partitions:
        chosen["spark.sql.shuffle.partitions"] = str(settings.shuffle_partitions)
    elif master.startswith("local"):
        chosen["spark.sql.shuffle.partitions"] = str(2 * (os.cpu_count() or 1))
    chosen.update(settings.conf)
    if master.startswith("local"):
        options = chosen.get(JAVA_OPTIONS, LATER_OPTIMIZATION)
        chosen[JAVA_OPTIONS] = f"{archive_options()} {options}".strip()
    return chosen


def open_session(settings: SparkSettings, name: str = "factorlake") -> SparkSession:
    """Return the running session, or start one that knows Delta.

    A session that the platform already started is taken as it is. Under spark-submit its settings win over ours.
    Workers run the driver's Python unless PYSPARK_PYTHON says otherwise.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    given = submitted_settings()
    master = given.get("spark.master") or settings.master or "local[*]"
    # Loopback keeps a local session working on machines whose host name does not resolve.
    if master.startswith("local") and not under_spark_submit():
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    chosen = {key: value for key, value in session_settings(settings, master).items() if key not in given}
    chosen["spark.app.name"] = given.get("spark.app.name", name)
    start_jvm(chosen)
    builder = SparkSession.builder
    for key, value in chosen.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    quiet(spark)
    return spark
