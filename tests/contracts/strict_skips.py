"""With STRICT=1 a skipped test is a failed one, but for the reasons listed in allowed_skips.txt.

A suite that skips what it cannot run looks green on a machine where it proved little.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def allowed_reasons(text: str) -> list[str]:
    """Return the reasons of a list: one a line, # starts a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def is_allowed(reason: str, allowed: list[str]) -> bool:
    """Whether a skip's reason begins with one of the allowed ones."""
    text = reason.removeprefix("Skipped: ")
    return any(text.startswith(start) for start in allowed)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not is_allowed(reason, allowed_reasons(ALLOWED.read_text(encoding="utf-8"))):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which STRICT=1 does not allow: {reason}"


class RefuseSkips:
    """Turns skips into failures as they are reported, of tests and of whole files."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        _refuse_skip(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        _refuse_skip(report)
        return report


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("STRICT") == "1":
        config.pluginmanager.register(RefuseSkips())
