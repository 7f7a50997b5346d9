"""One writer at a time: a lease with a number that rises with each holder.

Each holder makes the next numbered file by exclusive creation, so two can never hold the same number, and keeps its
file's time fresh while it works. A holder whose file has gone stale, or whose process is gone, may be followed; it
finds its number passed when it asks again and must not publish. Works where the root is a local or shared disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from factorlake.errors import LeaseHeldError

SECONDS_TO_LIVE = 60.0


class Lease:
    """Exclusive right to write one group of tables. Use as a context manager."""

    def __init__(self, folder: str, run_id: str, seconds_to_live: float = SECONDS_TO_LIVE) -> None:
        self.folder = Path(folder)
        self.run_id = run_id
        self.seconds_to_live = seconds_to_live
        self.number = 0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Lease:
        """Take the lease, or raise LeaseHeldError when a living run holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            last = self._newest()
            if last and not self._is_over(last):
                raise self._held_by(last)
            self.number = last + 1
            handle = os.open(self._file(self.number), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except (FileExistsError, FileNotFoundError):
            # The next number is taken, or so many were taken since that the file looked at is cleared away.
            raise self._held_by(self._newest()) from None
        try:
            with os.fdopen(handle, "w") as file:
                holder = {"run_id": self.run_id, "pid": os.getpid(), "host": socket.gethostname(), "pids": _pids()}
                json.dump(holder, file)
        except OSError:
            # A full disk. The file would keep others away until its time has passed, for a holder that is none.
            self._file(self.number).unlink(missing_ok=True)
            raise
        if self._newest() != self.number:
            # Taken, let go and cleared away by others before: a number below theirs is no lease.
            self._file(self.number).unlink(missing_ok=True)
            raise self._held_by(self._newest())
        for number in range(max(1, last - 1), last):
            self._file(number).unlink(missing_ok=True)
            self._released(number).unlink(missing_ok=True)
        self._heart = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._heart:
            self._heart.join()
        self._released(self.number).touch()

    def check(self) -> int:
        """Return the lease's number while it is the newest; raise LeaseHeldError once another run has followed."""
        newest = self._newest()
        if newest != self.number:
            raise LeaseHeldError(
                f"this run's lease ({self.number}) has passed to another run ({newest}); nothing more is written"
            )
        return self.number

    def _held_by(self, number: int) -> LeaseHeldError:
        """Name the holder, as far as it has told who it is: its file is empty in its first moment, or just gone."""
        who = "another run, which has just started,"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            holder = json.loads(self._file(number).read_text())
            who = f"run {holder['run_id']} (process {holder['pid']} on {holder['host']})"
        return LeaseHeldError(f"{who} is writing under {self.folder.parent}; wait for it, or end it and try again")

    def _beat(self) -> None:
        while not self._stop.wait(self.seconds_to_live / 4):
            # A disk that fails for a moment must not end the beat for good; a file that is gone was followed.
            with contextlib.suppress(OSError):
                os.utime(self._file(self.number))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:09d}.json"

    def _released(self, number: int) -> Path:
        return self.folder / f"{number:09d}.released"

    def _newest(self) -> int:
        return max((int(path.stem) for path in self.folder.glob("*.json")), default=0)

    def _is_over(self, number: int) -> bool:
        if self._released(number).exists():
            return True
        file = self._file(number)
        if time.time() - file.stat().st_mtime > self.seconds_to_live:
            return True
        try:
            holder = json.loads(file.read_text())
        except json.JSONDecodeError:
            return False  # its holder is just writing it
        # Only its own machine, or container, can tell by the number whether a process lives; else its time must pass.
        if (holder["host"], holder.get("pids")) != (socket.gethostname(), _pids()):
            return False
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _pids() -> str | None:
    """The set of processes that this one's number belongs to: containers of one host name each count their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
