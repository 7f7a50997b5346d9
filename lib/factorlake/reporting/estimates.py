"""What `factorlake plan` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from factorlake.models.estimate import GIB, Estimate, Load


def estimate_table(estimates: Sequence[Estimate]) -> str:
    """Return the estimates side by side, a column each."""
    rows: list[tuple[str, list[str]]] = [
        ("", [f"{one.cluster.name} × {one.cluster.cores} cores" for one in estimates]),
        ("plan", [one.plan for one in estimates]),
        ("driver's Python", [_bytes(one.driver_memory) for one in estimates]),
        ("Python of each worker", [_bytes(one.worker_memory) for one in estimates]),
        ("disk while it trains", [_bytes(one.disk) for one in estimates]),
        *((part, [_time(one.seconds[part]) for one in estimates]) for part in estimates[0].seconds),
        ("core-hours", [f"{one.core_hours:.2f}" for one in estimates]),
        ("tables written", [_bytes(one.written) for one in estimates]),
    ]
    widths = [max(len(cells[place]) for _, cells in rows) for place in range(len(estimates))]
    lines = []
    for name, cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([name.ljust(22), *padded]).rstrip())
    return "\n".join([*lines, *(f"{one.cluster.name}: {one.plan}, {one.why}" for one in estimates)])


def estimate_line(load: Load, estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Return the same as one object; bytes and seconds as numbers."""
    return {
        "job": "plan",
        "exit_code": 0,
        "load": asdict(load),
        "estimates": [asdict(one) | {"core_hours": one.core_hours} for one in estimates],
    }


def _bytes(number: float) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
