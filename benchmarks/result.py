"""The one JSON object that every benchmark ends with, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numba
import numpy as np

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Describe this machine and the libraries that decide the speed."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }


def finish(
    name: str, settings: dict[str, Any], figures: dict[str, Any], ratios: dict[str, Any], keep: bool
) -> dict[str, Any]:
    """Print the result as the last line of standard output; keep it under results/ when asked to."""
    result = {
        "name": name,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        # A folder lies elsewhere on every machine and says nothing.
        "settings": {key: value for key, value in settings.items() if not isinstance(value, Path)},
        "machine": machine(),
        "figures": figures,
        "ratios": ratios,
    }
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{result['date']}-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    return result
