"""Fit a model to pairs by the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from pyspark.sql import DataFrame

from factorlake.config.settings import Settings
from factorlake.kernels.gram import block_gram
from factorlake.models.checkpoints import Checkpoints
from factorlake.models.parameters import AlsParameters
from factorlake.models.sgd import SgdTraceRow
from factorlake.models.sgd_parameters import SgdParameters
from factorlake.models.trained import TraceRow, TrainedModel
from factorlake.pipelines.context import Context
from factorlake.pipelines.models import Trainer
from factorlake.spark.sgd import fit_sgd_pairs
from factorlake.spark.training import FitFeatures, Fitted, Validation, fit_pairs

LEAST_RIDGE = 1e-6
"""λ that users are solved with where stochastic gradients had none: some rows have fewer ratings than factors."""


def als_parameters(settings: Settings) -> AlsParameters:
    """Return the engine's numbers for these settings."""
    t = settings.train
    stop = t.early_stopping
    return AlsParameters(
        objective=t.objective,
        rank=t.rank,
        regularization=t.regularization,
        item_regularization=t.item_regularization,
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
        feature_strength=1.0 if t.features is None else t.features.strength,
        feature_regularization=1.0 if t.features is None else t.features.regularization,
        seed=settings.seed,
        tolerance=None if stop is None else stop.tolerance,
        patience=1 if stop is None else stop.patience,
    )


def sgd_parameters(settings: Settings) -> SgdParameters:
    """Return the numbers of a training by stochastic gradients for these settings."""
    t = settings.sgd
    return SgdParameters(
        optimizer=t.optimizer,
        rank=t.rank,
        learning_rate=t.learning_rate,
        regularization=t.regularization,
        biases=t.biases,
        bias_regularization=t.bias_regularization,
        epochs=t.epochs,
        batch_size=t.batch_size,
        init_scale=t.init_scale,
        scaling=t.scaling,
        validation_share=t.validation_share,
        patience=t.patience,
        strata=t.strata,
        seed=settings.seed,
    )


def fit(
    context: Context,
    pairs: DataFrame,
    version: str,
    trainer: Trainer = "als",
    *,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validation: Validation | None = None,
    features: FitFeatures | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Train on (user_id, item_id, value) pairs by the settings; see ``fit_pairs`` and ``fit_sgd_pairs``.

    What training keeps meanwhile lies under the candidate's folder and goes with ``Fitted.release``.
    """
    settings, folder = context.settings, context.lake.candidate_folder(version)
    if trainer == "sgd":
        return _fit_sgd(context, pairs, folder, on_half_step)
    return fit_pairs(
        context.spark,
        pairs,
        als_parameters(settings),
        workspace=folder,
        plan=settings.train.plan,
        threads=settings.train.threads or None,
        progress=context.progress,
        on_half_step=on_half_step,
        validation=validation,
        features=features,
        checkpoints=checkpoints,
    )


def checkpoints_of(context: Context, version: str) -> Checkpoints | None:
    """Return where training of a model keeps its progress; None where the settings or the root's store allow none."""
    seconds = context.settings.train.checkpoint_seconds
    if seconds is None or not context.lake.is_local:
        return None
    return Checkpoints(context.lake.checkpoints(version), seconds, context.progress)


def _fit_sgd(context: Context, pairs: DataFrame, folder: str, on_step: Callable[[TraceRow], None] | None) -> Fitted:
    """Train by stochastic gradients; what comes out is a model as any, whose users can be solved for its items."""
    settings = context.settings
    trace: list[TraceRow] = []

    def tell(row: SgdTraceRow) -> None:
        trace.append(_trace_row(row, "after"))
        if on_step is not None:
            on_step(trace[-1])

    found = fit_sgd_pairs(
        context.spark,
        pairs,
        sgd_parameters(settings),
        workspace=folder,
        plan=settings.sgd.plan,
        threads=settings.train.threads or None,
        progress=context.progress,
        on_epoch=tell,
    )
    model = found.model
    trace.append(_trace_row(model.kept, "final"))
    gram = np.zeros((model.rank, model.rank))
    first_row = 0
    for block in model.items.blocks():
        gram += block_gram(np.ascontiguousarray(block[:, : model.rank]), first_row)
        first_row += len(block)
    trained = TrainedModel(
        users=model.users,
        items=model.items,
        rank=model.rank,
        mean=model.mean,
        item_gram=gram,
        trace=tuple(trace),
        epochs=model.epochs,
        stopped=model.stopped,
        jitters=0,
    )
    parameters = replace(als_parameters(settings), regularization=max(model.regularization, LEAST_RIDGE))
    return Fitted(trained, parameters, found.users, found.items, found.n_observed, found.plan, found.folder)


def _trace_row(row: SgdTraceRow, state: Literal["after", "final"]) -> TraceRow:
    return TraceRow(
        epoch=row.epoch,
        side="both",
        state=state,
        loss=row.loss,
        observed_loss=row.observed_loss,
        all_pairs_loss=0.0,
        regularization_loss=row.regularization_loss,
        seconds=row.seconds if state == "after" else 0.0,
        metric=row.validation_rmse,
    )
