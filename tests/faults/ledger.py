"""The ledger of the soak: one line of JSON for each trial, and the table that is made of them.

A trial is known by the commit it ran on, its kind of fault and its seed; one that is in the ledger is not run again.
``python -m tests.faults.ledger`` prints the table of the commit at hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# What a trial runs: a commit that changes nothing of it (a page of docs, a test) leaves the trials valid.
PRODUCT = ("lib", "jobs", "conf", "deploy")
HEAD = ("kind of fault", "runs", "lost", "duplicated", "torn", "wrong exit code", "stuck")


@dataclass(frozen=True)
class Trial:
    """One fault and what became of the lake.

    landed : whether the fault struck before the job was over. Only such trials count as runs.
    lost, duplicated : rows of the undisturbed lake that are missing after the recovery, and rows too many.
    torn : looks of a consumer that met sets mixed.
    wrong_exit, stuck : an exit code that is none of those it should be; a job that had to be ended.
    """

    commit: str
    kind: str
    seed: int
    what: str
    landed: bool
    exit_codes: list[int]
    lost: int
    duplicated: int
    torn: int
    wrong_exit: bool
    stuck: bool
    seconds: float

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.torn or self.wrong_exit or self.stuck)


def ledger_path() -> Path:
    """Return the ledger's file: FACTORLAKE_SOAK_LEDGER, or .soak/ledger.jsonl in the checkout."""
    return Path(os.environ.get("FACTORLAKE_SOAK_LEDGER") or CHECKOUT / ".soak" / "ledger.jsonl")


def commit_at_hand() -> str:
    """Return the last commit that changed the product, with a + where the checkout differs from it."""
    commit = _git("log", "-1", "--format=%h", "--", *PRODUCT)
    return commit + ("+" if _git("status", "--porcelain", "--", *PRODUCT) else "")


def read(path: Path, commit: str) -> list[Trial]:
    """Return the trials of a commit; none where there is no ledger. A line that was cut short is left out."""
    if not path.exists():
        return []
    # Cut short by a kill: without the end of its line, or with that of the next trial on it.
    lines = [line for line in path.read_text().split("\n")[:-1] if line.startswith("{") and line.endswith("}")]
    trials = [Trial(**json.loads(line)) for line in lines]
    return [trial for trial in trials if trial.commit == commit]


def append(path: Path, trial: Trial) -> None:
    """Add a trial, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as ledger:
        ledger.write(json.dumps(asdict(trial)) + "\n")


def table(trials: Iterable[Trial]) -> str:
    """Return the Markdown table: a line for each kind, and their sum. Trials whose fault came too late are left
    out."""
    by_kind: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.landed:
            by_kind.setdefault(trial.kind, []).append(trial)
    rows = [(kind, *_sums(found)) for kind, found in sorted(by_kind.items())]
    rows.append(("all", *_sums([trial for found in by_kind.values() for trial in found])))
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _sums(trials: list[Trial]) -> tuple[int, ...]:
    counted = ("lost", "duplicated", "torn", "wrong_exit", "stuck")
    return len(trials), *(sum(int(getattr(trial, name)) for trial in trials) for name in counted)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    commit = sys.argv[1] if len(sys.argv) > 1 else commit_at_hand()
    trials = read(ledger_path(), commit)
    points = {trial.what for trial in trials if trial.landed and trial.kind == "driver killed at a named point"}
    sys.stdout.write(f"Commit {commit}; {len(points)} named points.\n\n{table(trials)}\n")


if __name__ == "__main__":
    main()
