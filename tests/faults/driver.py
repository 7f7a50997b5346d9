"""A job in a process of its own that opens its session, says that it is ready and waits for what to do.

    python -m tests.faults.driver SPARK_SETTING=VALUE...

It reads a line of JSON for each job: verb, settings, options of the verb, and the point at which it shall hold ("" for
none): the commit with that number, counted from 1, before or after it is made ("before 3", "after 3"). There it says
so, and goes on when it is told a line. With the end of its input it ends, with the exit code of its last job. To start
the session beforehand spares a trial the wait.

Where the environment names the gateway of a JVM that is up (PYSPARK_GATEWAY_PORT), the driver takes a session of its
own there, and the JVM outlives it. At a named point that makes no difference to what is on disk: the JVM is idle then.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

from factorlake.config.loader import load_settings
from factorlake.pipelines.jobs import execute
from factorlake.spark.session import open_session
from factorlake.tables import delta_io
from factorlake.tables.delta_io import Commit
from tests.pipelines.demo_lake import CONF, DEMO

READY, HELD, ENDED = "ready", "held", "ended"


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def holding_at(point: str, write: Callable[..., Commit]) -> Callable[..., Commit]:
    """Return a ``delta_io._write`` that holds before or after the commit that the point names."""
    done = 0

    def hold(where: str) -> None:
        if point == f"{where} {done}":
            say(HELD)
            sys.stdin.readline()

    def writes(*arguments: Any) -> Commit:
        nonlocal done
        done += 1
        hold("before")
        commit = write(*arguments)
        hold("after")
        return commit

    return writes


def session_of_a_running_jvm() -> SparkSession:
    from pyspark.java_gateway import launch_gateway

    gateway = launch_gateway()
    jvm = gateway.jvm
    context = SparkContext(gateway=gateway, jsc=jvm.JavaSparkContext(jvm.org.apache.spark.SparkContext.getOrCreate()))
    return SparkSession(context, jvm.org.apache.spark.sql.classic.SparkSession.getDefaultSession().get().newSession())


def main() -> None:
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        spark = session_of_a_running_jvm()
    else:
        spark = open_session(load_settings([DEMO], sys.argv[1:]).spark)
    # The first query of a session loads what every job needs.
    spark.range(1).collect()
    say(READY)
    write, code = delta_io._write, 0
    while line := sys.stdin.readline():
        told = json.loads(line)
        delta_io._write = holding_at(told["point"], write)
        result = execute(
            told["verb"],
            load_settings([DEMO], told["settings"]),
            conf_dir=str(CONF),
            open_session=lambda: spark,
            progress=lambda _: None,
            options=told["options"],
        )
        code = result["exit_code"]
        say(f"{ENDED} {code} {result['reason']}")
    sys.exit(code)


if __name__ == "__main__":
    main()
