"""Every benchmark of speed in a short form, one after the other: a look at this machine, no figures to claim.

    python -m benchmarks.short

A tenth of the full sizes for what is large. Each runs in a process of its own, as `python -m benchmarks.NAME` with the
arguments shown, and gives its ratios to the table at the end. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Any

from benchmarks.result import finish

TENTH = ["--users", "13849", "--items", "2674", "--pairs", "1750000"]
RUNS: dict[str, list[str]] = {
    "training inside Spark": ["train_als", "--peers", "pyspark_ml", *TENTH],
    "training, plan local": ["train_als", "--plan", "local", "--peers", "irspack,implicit", *TENTH],
    "training on stars": [
        *("train_als", "--objective", "explicit", "--peers", "pyspark_ml", "--rank", "50"),
        *("--users", "5000", "--items", "2000", "--pairs", "800000"),
    ],
    "lists": ["top_k", "--peers", "implicit,pyspark_ml", "--repeat", "1", *TENTH],
    "by size": ["scale", "--pairs", "1,2", "--users", "13849", "--items", "2674"],
    "skew": ["skew", "--users", "70000", "--items", "15000", "--pairs", "200000"],
    "small data": ["small", "--repeat", "2"],
    "taking a log in": ["ingest", "--rows", "300000", "--repeat", "3"],
}


def with_peers_at_hand(arguments: list[str]) -> list[str] | None:
    """Return a run's arguments without the peers that cannot be imported, which are named; None where none is left."""
    if "--peers" not in arguments:
        return arguments
    at = arguments.index("--peers") + 1
    peers = arguments[at].split(",")
    # pyspark_ml comes with pyspark.
    missing = [peer for peer in peers if find_spec(peer.partition("_")[0]) is None]
    if missing:
        print(f"\nwithout {', '.join(missing)}: not installed here (pip install {' '.join(missing)})", flush=True)
    found = [peer for peer in peers if peer not in missing]
    return [*arguments[:at], ",".join(found), *arguments[at + 1 :]] if found else None


def main() -> None:
    """Run all, print each one's figures, then the table of ratios and the result line."""
    figures: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for name, arguments in RUNS.items():
        chosen = with_peers_at_hand(arguments)
        if chosen is None:
            continue
        module, *rest = chosen
        print(f"\n== {name}: python -m benchmarks.{module} {' '.join(rest)}", flush=True)
        began = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{module}", *rest]
        *told, last = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        print("\n".join(told), flush=True)
        figures[name] = {"seconds_of_the_benchmark": round(time.perf_counter() - began, 1)}
        ratios[name] = json.loads(last)["ratios"]
    print("\nratios to the peers; above 1 is faster or better here")
    for name, found in ratios.items():
        told_ratios = ", ".join(f"{key} {value:.2f}" for key, value in found.items() if isinstance(value, float))
        print(f"{name:<24}{figures[name]['seconds_of_the_benchmark']:7.0f} s  {told_ratios}")
    finish("short", {"runs": RUNS}, figures, ratios, keep=False)


if __name__ == "__main__":
    main()
