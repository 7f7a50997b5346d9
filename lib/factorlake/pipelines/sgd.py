"""Train a candidate by stochastic gradients: reads interactions, writes what `train` writes."""

from __future__ import annotations

from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.train import train_candidate


def run(context: Context) -> JobResult:
    """Train on ratings by the section `sgd` of the settings; see `train_candidate`."""
    return train_candidate(context, "sgd")
