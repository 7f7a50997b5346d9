"""The search from the defaults: it sees what is known of a task, and is told nothing of the data but that.

    python -m benchmarks.quality_search benchmarks/results/DATE-quality-NAME-tuned.json

prints the trials of a kept result as a transcript.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.quality_tasks import Task
from factorlake.models.parameters import AlsParameters
from factorlake.models.search import Trial, rank_curve
from factorlake.models.tuning import Outcome, tune_ratings


def searched(given: argparse.Namespace, task: Task) -> tuple[AlsParameters, dict[str, Any]]:
    """Return the settings that the search finds on parts of what is known, and its trials."""
    blocks = task.packed.user_blocks
    users = np.concatenate([np.repeat(np.arange(b.n_rows) + b.first_row, np.diff(b.row_ptr)) for b in blocks])
    items = np.concatenate([b.neighbours for b in blocks])
    values = np.concatenate([np.ones(b.n_obs, np.float32) if b.values is None else b.values for b in blocks])
    ids = np.array(task.packed.user_ids, dtype=object)[users], np.array(task.packed.item_ids, dtype=object)[items]
    start = AlsParameters(objective="explicit" if task.explicit else "implicit")
    trials: list[dict[str, Any]] = []

    def tell(trial: Trial, outcome: Outcome) -> None:
        proposal = trial.proposal
        row: dict[str, Any] = {
            "number": proposal.number,
            "stage": proposal.stage,
            "rank": proposal.rank,
            "value": outcome.value,
        }
        row |= {"best_epoch": outcome.best_epoch, "start": proposal.start, "seconds": round(outcome.seconds, 2)}
        trials.append(row)
        print(
            f"    {proposal.number:3d} {proposal.stage:8} rank {proposal.rank:5d}  {outcome.value:9.5f} "
            f"at epoch {outcome.best_epoch}  ({outcome.seconds:.1f} s)",
            flush=True,
        )

    found = tune_ratings(
        *ids,
        values if (values != 1).any() else None,
        start,
        given.tune,
        metric="rmse" if task.explicit else "ndcg",
        max_rank=given.max_rank,
        threads=2,
        on_trial=tell,
    )
    chosen = replace(found.parameters, tolerance=None)
    numbers = f"λ {chosen.regularization:.4g} α0 {chosen.alpha0:.4g} κ {chosen.count_offset:.4g} ν {chosen.nu:.3g}"
    told = f"rank {chosen.rank} {numbers} λ_b {chosen.bias_regularization:.3g} epochs {chosen.epochs}"
    print(f"    chosen: {told}", flush=True)
    return chosen, {"trials": trials, "rank_curve": rank_curve(found.trials)}


def transcript(result: dict[str, Any]) -> str:
    """Return the trials of a kept result, one line each, and what came of them."""
    figures = result["figures"]
    lines = [f"{'trial':>5} {'stage':8} {'rank':>5} {'ndcg@20':>9} {'epoch':>5}  start"]
    for trial in figures["search"]["trials"]:
        start = "cold" if trial["start"] is None else f"trial {trial['start']}"
        told = f"{trial['value']:9.5f} {trial['best_epoch']:5d}"
        lines.append(f"{trial['number']:5d} {trial['stage']:8} {trial['rank']:5d} {told}  {start}")
    tuned = figures["tuned"]
    settings = "  ".join(f"{name} {value:.4g}" for name, value in tuned["settings"].items() if value is not None)
    judged = "  ".join(
        f"{name} {tuned[name]:.4f}" for name in ("hr@10", "ndcg@10", "recall@20", "ndcg@20") if name in tuned
    )
    return "\n".join([*lines, f"chosen: {settings}", f"test part, {len(tuned['each'])} seeds: {judged}"])


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(transcript(json.load(file)))
