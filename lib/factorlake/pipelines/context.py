"""What every pipeline is handed, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from factorlake.config.settings import Settings
from factorlake.tables.names import Lake

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Context:
    """One run's surroundings: session, settings, tables, and where to tell progress."""

    spark: SparkSession
    settings: Settings
    lake: Lake
    run_id: str
    progress: Progress
    conf_dir: str
    """The conf folder that named things (expectations) are looked up in."""
    lease: Callable[[], int]
    """Number of the lease this run holds; raises LeaseHeldError once another run has followed it."""


@dataclass
class JobResult:
    """How a job ended. The command line prints it as one JSON object, the runs table keeps it."""

    exit_code: int = 0
    reason: str = "done"
    counts: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    model_version: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
