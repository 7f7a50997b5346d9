"""The whole pipeline on a small demo log, in the session at hand: how tests start it, and what it left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from factorlake.config.loader import load_settings
from factorlake.config.settings import Settings
from factorlake.pipelines.jobs import execute

CONF = Path(__file__).resolve().parents[2] / "conf"
DEMO = CONF / "base" / "demo.yaml"
# Small enough for seconds, large enough that the model beats popularity by far on every seed that was tried.
SIZE = ("demo.listeners=150", "demo.tracks=80", "demo.days=3", "train.rank=8", "train.epochs=6")

# Another model of the same log, quickly trained.
RIVAL = ("train.rank=2", "train.epochs=1")


@dataclass(frozen=True)
class DemoRun:
    """One finished run: its lake, the log it read, its result line, and all that it told meanwhile."""

    root: Path
    log: Path
    line: dict[str, Any]
    told: str


def overrides(root: Path, log: Path, *more: str) -> list[str]:
    """Return the `--set` values of a small demo run over the lake at ``root``, its log in ``log``."""
    return [
        f"root={root}",
        f"input={log}/events",
        f"attributes.items.input={log}/tracks.csv",
        f"attributes.users.input={log}/listeners.csv",
        *SIZE,
        *more,
    ]


def demo_settings(root: Path, log: Path, *more: str) -> Settings:
    """Return the settings of a small demo run."""
    return load_settings([DEMO], overrides(root, log, *more))


def run_verb(spark: SparkSession, verb: str, settings: Settings, **options: Any) -> dict[str, Any]:
    """Run one job as the command line does, but in the session at hand; return its result line."""
    return execute(
        verb,
        settings,
        conf_dir=str(CONF),
        open_session=lambda: spark,
        progress=lambda _: None,
        options=options,
    )


def run_demo(spark: SparkSession, folder: Path) -> DemoRun:
    """Run the whole pipeline on a new small demo log; keep every line it told: progress, log and result."""
    root, log = folder / "lake", folder / "log"
    lines: list[str] = []
    with _listening(lines):
        line = execute(
            "run",
            demo_settings(root, log),
            conf_dir=str(CONF),
            open_session=lambda: spark,
            progress=lines.append,
        )
    return DemoRun(root, log, line, "\n".join([*lines, str(line)]))


@contextmanager
def _listening(lines: list[str]) -> Iterator[None]:
    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("factorlake"), Listener(logging.INFO)
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
