"""Train a candidate: reads interactions, writes candidates/VERSION/factors, training_trace and a models row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO, ConfigError
from factorlake.models.spectrum import spectrum
from factorlake.models.trained import TraceRow
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.features import fitted_prior, learn_features, model_row, read_attributes
from factorlake.pipelines.fit import checkpoints_of, fit, sgd_parameters
from factorlake.pipelines.holdout import cutoff_of, epoch_metric
from factorlake.pipelines.models import (
    Trainer,
    as_trained,
    held_out_truth,
    model_version,
    selected_events,
    settings_of_model,
    training_pairs,
)
from factorlake.pipelines.sgd_baselines import record_baselines
from factorlake.spark.compat import keep, release
from factorlake.spark.exchange import Exchange
from factorlake.spark.features import FACTOR_ROWS, with_silent_rows
from factorlake.spark.fold_in import fold_in
from factorlake.spark.item_side import load_items
from factorlake.spark.pairs import fingerprint
from factorlake.spark.training import FitFeatures, Fitted, Validation
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS

VALIDATION_METRIC = "validation rmse"
"""Of the ratings that `sgd` holds out for itself."""


def run(context: Context) -> JobResult:
    """Train by alternating least squares; see `train_candidate`."""
    return train_candidate(context, "als")


def train_candidate(context: Context, trainer: Trainer) -> JobResult:
    """Train on the accepted events up to the holdout, then solve every user again on all events.

    The model's version is made of the events' contents, the settings and the seed, so the same input gives the same
    version: one that is trained already is not trained again (99), and training that was cut off goes on from its last
    checkpoint.
    """
    context = as_trained(context, trainer)
    spark, lake, settings = context.spark, context.lake, context.settings
    interactions_version = delta_io.version(spark, lake.shared("interactions"))
    events = selected_events(context, interactions_version)
    print_of = fingerprint(events)
    newest: Any = print_of["newest"]
    cutoff = cutoff_of(newest, settings.train.holdout_days)
    attributes = read_attributes(context)
    contents = f"{print_of['hash']}{attributes.print()}"
    version = model_version(context, newest, contents, trainer)
    checkpoints = checkpoints_of(context, version) if trainer == "als" else None
    existing = registry.model(spark, lake, version)
    if existing is not None and existing["state"] != registry.EXPIRED:
        if checkpoints is not None:
            checkpoints.clear()
        return JobResult(NOTHING_TO_DO, f"model {version} is trained already", model_version=version)
    features = learn_features(context, attributes, holds_out=cutoff is not None)
    known_events = events if cutoff is None else events.where(F.col("event_time") <= F.lit(cutoff))
    known = keep(training_pairs(context, known_events, newest if cutoff is None else None))
    everything = known if cutoff is None else training_pairs(context, events, newest)

    def tell(row: TraceRow) -> None:
        metric = "" if row.metric is None else f", held out {row.metric:.4f}"
        context.progress(f"epoch {row.epoch} {row.side}: objective {row.loss:.6g}{metric} ({row.seconds:.2f} s)")

    try:
        validation = _validation(context, events, known, cutoff)
        fitted = fit(
            context,
            known,
            version,
            trainer,
            on_half_step=tell,
            validation=validation,
            features=features,
            checkpoints=checkpoints,
        )
        context.progress("solving every user on all events")
        try:
            found = spectrum(fitted.model.users, fitted.model.items, fitted.parameters.rank)
            factors_version = _write_factors(context, fitted, known, everything, version, features)
            if trainer == "sgd":
                record_baselines(context, known, sgd_parameters(settings), version, fitted.n_blocks)
        finally:
            fitted.release()
    finally:
        release(known)
    trace_version = _write_trace(context, fitted, version, trainer)
    model = fitted.model
    row = {
        "model_version": version,
        "state": "trained",
        "objective": settings.train.objective,
        "rank": settings.train.rank,
        "settings": settings_of_model(context, trainer, fitted.parameters.regularization),
        "seed": settings.seed,
        "n_users": fitted.users.n_ids,
        "n_items": fitted.items.n_ids,
        "n_observed": fitted.n_observed,
        "mean": float(model.mean),
        "gram": np.ascontiguousarray(model.item_gram, np.float64).tobytes(),
        "as_of": newest,
        "cutoff": cutoff,
        "interactions_version": interactions_version,
        "fingerprint": contents,
        "epochs": model.epochs,
        "loss": float(model.loss),
        "metrics": {},
        "spectrum": found.to_json(),
        **model_row(features, model),
    }
    models_version = context.record_model(row)
    if checkpoints is not None:
        checkpoints.clear()
    return JobResult(
        counts={
            "users": fitted.users.n_ids,
            "items": fitted.items.n_ids,
            "pairs": fitted.n_observed,
            "epochs": model.epochs,
        },
        versions={
            "interactions": interactions_version,
            **attributes.versions,
            "factors": factors_version,
            "training_trace": trace_version,
            "models": models_version,
        },
        model_version=version,
        details={"plan": fitted.plan, "loss": float(model.loss), "stopped": model.stopped},
    )


def _metric_name(context: Context) -> str | None:
    stop = context.settings.train.early_stopping
    return None if stop is None or stop.metric == "objective" else stop.metric


def _validation(context: Context, events: DataFrame, known: DataFrame, cutoff: datetime | None) -> Validation | None:
    metric = _metric_name(context)
    if metric is None:
        return None
    if cutoff is None:
        raise ConfigError(f"train.early_stopping.metric {metric} needs a holdout: set train.holdout_days")
    held = held_out_truth(context, events.where(F.col("event_time") > F.lit(cutoff)))
    return Validation(epoch_metric(metric, known, held), larger_is_better=metric != "rmse")


def item_factors_frame(
    context: Context, fitted: Fitted, exchange: Exchange, known: DataFrame, features: FitFeatures | None
) -> DataFrame:
    """Return (id, factor, bias, norm, n_observed) of the trained items, and of those that only their features tell of
    where the settings answer for them; each task reads its rows by the exchange."""
    items, rank = exchange.ship_rows(fitted.model.items), fitted.parameters.rank

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            position = batch["position"].to_numpy()
            found = items.at(position)
            chosen = np.ascontiguousarray(found[:, :rank])
            bias = np.ascontiguousarray(found[:, rank]) if found.shape[1] > rank else np.zeros(len(found), np.float32)
            offsets = pa.array(np.arange(len(position) + 1, dtype=np.int32) * rank)
            norm = np.sqrt(np.sum(chosen.astype(np.float64) ** 2, axis=1)).astype(np.float32)
            yield pa.RecordBatch.from_arrays(
                [
                    batch["id"],
                    pa.ListArray.from_arrays(offsets, pa.array(chosen.reshape(-1))),
                    pa.array(bias),
                    pa.array(norm),
                    batch["n_observed"],
                ],
                names=["id", "factor", "bias", "norm", "n_observed"],
            )

    counts = known.groupBy(F.col("item_id").alias("id")).agg(F.count(F.lit(1)).alias("n_observed"))
    numbered = fitted.items.frame.select("id", "position").join(counts, on="id").select("id", "position", "n_observed")
    trained = numbered.mapInArrow(rows, FACTOR_ROWS)
    prior = fitted_prior(context, "item", features, fitted.model)
    return trained if prior is None else with_silent_rows(trained, fitted.items.frame.select("id"), prior, rank)


def _write_factors(
    context: Context,
    fitted: Fitted,
    known: DataFrame,
    all_pairs: DataFrame,
    version: str,
    features: FitFeatures | None,
) -> int:
    spark, lake, model = context.spark, context.lake, fitted.model
    path = lake.candidate(version, "factors")
    with Exchange(spark, lake.exchange(version)) as exchange:
        items = item_factors_frame(context, fitted, exchange, known, features)
        context.overwrite(items.withColumn("side", F.lit("item")), path, SCHEMAS["factors"])
        loaded = load_items(delta_io.read(spark, path), exchange, model.mean, listed=False)
        numbered = all_pairs.join(loaded.frame.withColumnRenamed("id", "item_id"), on="item_id", how="left")
        users = fold_in(
            numbered,
            loaded.shipped,
            model.item_gram,
            fitted.parameters,
            fitted.items.n_ids,
            fitted.n_blocks,
            fitted_prior(context, "user", features, model),
        )
        users = users.withColumn("side", F.lit("user")).withColumnRenamed("user_id", "id")
        commit = context.append(users, path, SCHEMAS["factors"])
    return commit.version


def _write_trace(context: Context, fitted: Fitted, version: str, trainer: Trainer) -> int:
    metric_name = VALIDATION_METRIC if trainer == "sgd" else _metric_name(context)
    solvers: tuple[str, str] = (fitted.parameters.row_solver, fitted.parameters.last_solver)
    if trainer == "sgd":
        solvers = (context.settings.sgd.optimizer, context.settings.sgd.optimizer)
    rows = [
        {
            "model_version": version,
            "epoch": row.epoch,
            "side": row.side,
            "state": row.state,
            "loss": float(row.loss),
            "observed_loss": float(row.observed_loss),
            "regularization_loss": float(row.regularization_loss),
            "seconds": float(row.seconds),
            "metric_name": metric_name if row.metric is not None else None,
            "metric": None if row.metric is None else float(row.metric),
            "plan": fitted.plan,
            "solver": solvers[row.state == "final"],
            "run_id": context.run_id,
        }
        for row in fitted.model.trace
    ]
    path = context.lake.own("training_trace")
    return context.append_rows(rows, path, SCHEMAS["training_trace"], app_id=f"trace:{version}").version
