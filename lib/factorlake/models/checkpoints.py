"""Training that goes on where it was cut off: what the loop knows after an epoch, kept in files.

Every number the loop goes on from is kept as it is, so the factors of a resumed training are those of an undisturbed
one, bit for bit. Rows are written and read block by block: no plan has to hold them all in one place.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np

from factorlake.types import SIDES, FloatMatrix, Side

from .parameters import AlsParameters
from .plan import Plan, R
from .problem import AlsProblem, RowBlock
from .state import SideState, State
from .trained import TraceRow

log = logging.getLogger(__name__)

PARTIAL = ".partial"
STATE = "state.json"


@dataclass(frozen=True)
class Progress(Generic[R]):
    """Training after an epoch; 0: before the first."""

    epoch: int
    state: State[R]
    best: State[R]
    """What is kept in the end: the last state, or under a held-out metric the best one so far."""
    best_epoch: int = 0
    best_score: float = -np.inf
    losses: tuple[float, ...] = ()
    """The objective before the first epoch, as far as a half step told it, and after each."""
    idle_epochs: int = 0
    """Epochs in a row without enough progress."""
    trace: tuple[TraceRow, ...] = ()


class Checkpoints:
    """Keeps the last progress of one training under a folder that driver and workers see."""

    def __init__(self, folder: str, seconds: float, tell: Callable[[str], None] = lambda _: None) -> None:
        """``seconds``: least time between two checkpoints, 0 for one after every epoch. ``tell`` hears of training that
        goes on."""
        self.folder = Path(folder)
        self.seconds = seconds
        self.tell = tell
        self._last = time.monotonic()

    def keep(self, now: Progress[R], parameters: AlsParameters, problem: AlsProblem) -> None:
        """Keep the progress if it is time to, in place of what was kept before.

        A checkpoint appears as a whole, by one rename; the one before goes after that.
        """
        if time.monotonic() - self._last < self.seconds:
            return
        made = self.folder / f"epoch-{now.epoch:06d}"
        partial = made.with_suffix(PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        states = {"last": now.state} if now.best is now.state else {"last": now.state, "best": now.best}
        told = {
            "made_for": _made_for(parameters, problem),
            "epoch": now.epoch,
            "states": {name: _write_state(partial, name, state, problem) for name, state in states.items()},
            "best_epoch": now.best_epoch,
            "best_score": now.best_score,
            "losses": now.losses,
            "idle_epochs": now.idle_epochs,
            "trace": [asdict(row) for row in now.trace],
        }
        (partial / STATE).write_text(json.dumps(told), encoding="utf-8")
        shutil.rmtree(made, ignore_errors=True)
        os.rename(partial, made)
        for other in self._kept():
            if other != made:
                shutil.rmtree(other, ignore_errors=True)
        self._last = time.monotonic()

    def load(self, plan: Plan[R], parameters: AlsParameters) -> Progress[R] | None:
        """Return the progress that was kept of a training with these parameters on these ratings; None where there is
        none, or none that can be read."""
        for folder in reversed(self._kept()):
            try:
                told = json.loads((folder / STATE).read_text(encoding="utf-8"))
                if told["made_for"] != _made_for(parameters, plan.problem):
                    continue
                states = {name: _read_state(plan, folder, name, one) for name, one in told["states"].items()}
            except (OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s cannot be read (%s); training does without it", folder.name, error)
                continue
            self.tell(f"training goes on after epoch {told['epoch']}")
            return Progress(
                told["epoch"],
                states["last"],
                states.get("best", states["last"]),
                told["best_epoch"],
                told["best_score"],
                tuple(told["losses"]),
                told["idle_epochs"],
                tuple(TraceRow(**row) for row in told["trace"]),
            )
        return None

    def clear(self) -> None:
        """Remove what was kept: the model is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self) -> Sequence[Path]:
        found = self.folder.glob("epoch-*") if self.folder.is_dir() else ()
        return sorted(one for one in found if one.suffix != PARTIAL)


def _made_for(parameters: AlsParameters, problem: AlsProblem) -> dict[str, Any]:
    """Return what a checkpoint must have been made for, as JSON gives it back."""
    sizes = {"users": problem.n_users, "items": problem.n_items, "pairs": problem.n_obs, "sum": problem.rating_sum}
    made: dict[str, Any] = json.loads(json.dumps({"parameters": asdict(parameters), **sizes}))
    return made


def _write_state(folder: Path, name: str, state: State[Any], problem: AlsProblem) -> dict[str, Any]:
    """Write rows and matrices of both sides; return the numbers beside them."""
    losses = {}
    for side in SIDES:
        one = state.side(side)
        _write_rows(folder / f"{name}-{side}.npy", one.rows, problem.n_rows(side))
        np.save(folder / f"{name}-{side}-gram.npy", one.gram)
        if one.prior is not None:
            np.save(folder / f"{name}-{side}-prior.npy", one.prior)
        losses[side] = one.regularization_loss
    return {"regularization_losses": losses, "mean": state.mean, "jitters": state.jitters}


def _read_state(plan: Plan[R], folder: Path, name: str, told: dict[str, Any]) -> State[R]:
    sides = {}
    for side in SIDES:
        rows = _read_rows(plan, side, str(folder / f"{name}-{side}.npy"))
        prior = folder / f"{name}-{side}-prior.npy"
        sides[side] = SideState(
            rows,
            np.load(folder / f"{name}-{side}-gram.npy", allow_pickle=False),
            told["regularization_losses"][side],
            np.load(prior, allow_pickle=False) if prior.exists() else None,
        )
    return State(sides["user"], sides["item"], told["mean"], told["jitters"])


def _write_rows(path: Path, rows: R, n: int) -> None:
    """Write the rows of one side in the order of their blocks."""
    written: np.memmap[Any, np.dtype[Any]] | None = None
    first = 0
    for block in rows.blocks():
        if written is None:
            shape = (n, block.shape[1])
            written = np.lib.format.open_memmap(path, mode="w+", dtype=block.dtype, shape=shape)
        written[first : first + len(block)] = block
        first += len(block)
    if written is not None:
        written.flush()


def _read_rows(plan: Plan[R], side: Side, path: str) -> R:
    if len(np.load(path, mmap_mode="r", allow_pickle=False)) != plan.problem.n_rows(side):
        raise ValueError(f"{path} does not hold every row")

    def fill(block: RowBlock) -> tuple[FloatMatrix, None]:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(stored[block.first_row : block.first_row + block.n_rows]), None

    return plan.map_rows(side, fill)[0]
