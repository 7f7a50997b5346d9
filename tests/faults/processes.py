"""Processes of a run that is killed, stopped or told to stop, as /proc tells of them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill_session(leader: int) -> None:
    """Kill every process of a session; Spark's workers leave the process group, but not the session."""
    while members := members_of(leader):
        signal_each(members, signal.SIGKILL)


def signal_each(pids: list[int], number: int) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def members_of(leader: int) -> list[int]:
    """Return the living processes of a session."""
    return [pid for pid in all_processes() if session_of(pid) == leader]


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def session_of(pid: int) -> int | None:
    """Return the session of a living process; None for one that is gone or waits to be reaped."""
    fields = _state_of(pid)
    return None if fields is None else int(fields[3])


def python_workers(ancestor: int) -> list[int]:
    """Return the Python workers of Spark under a process: children of the daemon that makes them."""
    parents = {pid: int(fields[1]) for pid in all_processes() if (fields := _state_of(pid)) is not None}
    below = {pid for pid in parents if _is_below(pid, ancestor, parents)}
    return [pid for pid in below if _is_daemon(pid) and _is_daemon(parents[pid])]


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid := parents.get(pid, 0):
        if pid == ancestor:
            return True
    return False


def _is_daemon(pid: int) -> bool:
    """Workers are forks of the daemon and keep its command line; the JVM's names the daemon too, but no worker."""
    return b"pyspark.worker" in command_line(pid)


def command_line(pid: int) -> bytes:
    """Return a process's command line; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_told_to_end(pid: int) -> bool:
    """Whether SIGTERM waits for a process that is stopped."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    waiting = next(int(line.split()[1], 16) for line in told.splitlines() if line.startswith("ShdPnd"))
    return bool(waiting >> (signal.SIGTERM - 1) & 1)


def _state_of(pid: int) -> list[str] | None:
    """Return what /proc/PID/stat tells from the state on; None for a process that is gone or waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields
