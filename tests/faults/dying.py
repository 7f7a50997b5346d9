"""Runs that end right after one of their commits, as if they were killed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factorlake.models.trained import TraceRow
    from factorlake.tables.delta_io import Commit


class Killed(BaseException):
    """No error: nothing in the package may catch it."""


def die_in(epoch: int) -> Callable[[TraceRow], None]:
    """Return what ends training in the middle of an epoch, after its first half step."""

    def look(row: TraceRow) -> None:
        if row.epoch == epoch and row.state != "final":
            raise Killed

    return look


def die_after(n_commits: int, write: Callable[..., Commit]) -> Callable[..., Commit]:
    """Return a ``delta_io._write`` that does its work and ends the run right after the given commit."""
    done = 0

    def writes(*arguments: Any) -> Commit:
        nonlocal done
        commit = write(*arguments)
        done += 1
        if done == n_commits:
            raise Killed
        return commit

    return writes
