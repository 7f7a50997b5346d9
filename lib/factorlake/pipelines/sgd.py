"""Train a candidate by stochastic gradients: reads interactions, writes what `train` writes."""

from __future__ import annotations

from factorlake.errors import ConfigError
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.train import train_candidate


def run(context: Context) -> JobResult:
    """Train on ratings by the section `sgd` of the settings; see `train_candidate`.

    Raises
    ------
    ConfigError : a half-life, which is for weights of events, or features, which have a prior in `train` only.
    """
    if context.settings.train.half_life_days:
        raise ConfigError(
            "sgd trains on ratings, which age does not change: leave train.half_life_days out, or train by `train`"
        )
    if context.settings.train.features is not None:
        raise ConfigError(
            "sgd trains on ratings without a prior from attributes: leave train.features out, or train by `train`"
        )
    return train_candidate(context, "sgd")
