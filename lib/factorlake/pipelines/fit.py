"""Fit a model to pairs by the settings."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame

from factorlake.config.settings import Settings
from factorlake.models.parameters import AlsParameters
from factorlake.models.trained import TraceRow
from factorlake.pipelines.context import Context
from factorlake.spark.training import Fitted, Validation, fit_pairs


def als_parameters(settings: Settings) -> AlsParameters:
    """Return the engine's numbers for these settings."""
    t = settings.train
    stop = t.early_stopping
    return AlsParameters(
        objective=t.objective,
        rank=t.rank,
        regularization=t.regularization,
        nu=t.frequency_exponent,
        kappa=t.frequency_offset,
        alpha0=t.unobserved_weight,
        alpha=t.alpha,
        biases=t.biases,
        bias_regularization=t.bias_regularization,
        epochs=t.epochs,
        init_scale=t.init_scale,
        relaxation=t.relaxation,
        solver=t.solver,
        cg_steps=t.cg_steps,
        nonnegative=t.nonnegative,
        seed=settings.seed,
        tolerance=None if stop is None else stop.tolerance,
        patience=1 if stop is None else stop.patience,
    )


def fit(
    context: Context,
    pairs: DataFrame,
    version: str,
    *,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validation: Validation | None = None,
) -> Fitted:
    """Train on (user_id, item_id, value) pairs by the settings; see ``fit_pairs``.

    What training keeps meanwhile lies under the candidate's folder and goes with ``Fitted.release``.
    """
    settings = context.settings
    return fit_pairs(
        context.spark,
        pairs,
        als_parameters(settings),
        workspace=context.lake.candidate_folder(version),
        plan=settings.train.plan,
        threads=settings.train.threads or None,
        progress=context.progress,
        on_half_step=on_half_step,
        validation=validation,
    )
