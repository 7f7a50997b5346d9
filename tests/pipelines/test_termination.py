"""SIGTERM ends what a job computes, leaves its session sound, and ends the process in any case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import pandas as pd
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from factorlake.errors import Terminated
from factorlake.pipelines.termination import stopping_when_told

# What a job looks like that cannot be left: it swallows what the signal raises.
STUCK = """
import os, signal, time
from factorlake.errors import Terminated
from factorlake.pipelines import termination

termination.GRACE_SECONDS = 0.5
with termination.stopping_when_told():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Terminated:
        print("told", flush=True)
    while True:
        time.sleep(60)
"""


def test_a_job_that_cannot_be_left_ends_with_its_process() -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (4, "told\n")
    assert "still at work" in ended.stderr


def test_outside_of_a_job_the_signal_means_what_it_meant() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), stopping_when_told():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.spark
def test_what_spark_computes_is_cancelled_and_the_session_goes_on_answering(spark: SparkSession) -> None:
    def slow(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            time.sleep(3600)
            yield batch

    tracker = spark.sparkContext.statusTracker()

    def tell_once_it_computes() -> None:
        while not tracker.getActiveStageIds():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    with stopping_when_told() as termination:
        termination.session = spark
        threading.Thread(target=tell_once_it_computes, daemon=True).start()
        with pytest.raises((PySparkException, Py4JJavaError, Terminated)):
            spark.range(1).mapInPandas(slow, "id long").collect()
        termination.settle()
        # Every question gets its own answer, not that of the question before.
        assert [spark.range(n).count() for n in (3, 5)] == [3, 5]
    assert termination.asked
