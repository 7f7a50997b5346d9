"""How a job that is told to stop (SIGTERM) stops: its Spark jobs are cancelled, its run is recorded, and it ends in
time."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from pyspark.sql import SparkSession

from factorlake.errors import Terminated
from factorlake.spark.compat import cancel_jobs, waits_for_jvm

log = logging.getLogger(__name__)

GRACE_SECONDS = 9.0
"""After so long the process ends, whatever it waits for: those who send the signal send SIGKILL after ten and more."""
NUDGE_SECONDS = 0.1


class Termination:
    """Whether this run was told to stop, and what sees to it.

    The signal's handler raises `Terminated` where the main thread stands, but not in the middle of a call to the JVM: a
    write that is under way there would go on after the lease has been let go. Such a call ends by itself, since all
    Spark jobs are cancelled; then the handler is called again.
    """

    def __init__(self) -> None:
        self.session: SparkSession | None = None
        """The session whose jobs are to be cancelled, once there is one."""
        self.asked = False
        self._raised = False
        self._settled = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._seer: threading.Thread | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM, and of each nudge of the thread that sees to it."""
        if not self.asked:
            self.asked = True
            self._seer = threading.Thread(target=self._see_to_it, daemon=True, name="termination")
            self._seer.start()
        if not self._raised and not self._settled and not waits_for_jvm(frame):
            self._raised = True
            raise Terminated

    def settle(self) -> None:
        """No more is cancelled or raised: the run has ended and is going to be recorded. The time keeps running."""
        with self._lock:
            self._settled = True

    def end(self) -> None:
        """Nothing is left to see to."""
        self.settle()
        self._over.set()
        if self._seer is not None:
            self._seer.join()

    def _see_to_it(self) -> None:
        began = time.monotonic()
        while not self._over.wait(NUDGE_SECONDS):
            if time.monotonic() - began > GRACE_SECONDS:
                log.error("told to stop %d seconds ago and still at work: the process ends now", GRACE_SECONDS)
                os._exit(Terminated.exit_code)
            with self._lock:
                if self._settled:
                    continue
                if self.session is not None:
                    with suppress(Exception):
                        cancel_jobs(self.session)
                if not self._raised:
                    _thread.interrupt_main(signal.SIGTERM)


@contextmanager
def stopping_when_told() -> Iterator[Termination]:
    """Raise `Terminated` inside when the process gets SIGTERM. Signals reach the main thread alone: in another one
    nothing changes."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before: Any = signal.signal(signal.SIGTERM, termination.handle)
    try:
        yield termination
    finally:
        termination.end()
        signal.signal(signal.SIGTERM, before)
