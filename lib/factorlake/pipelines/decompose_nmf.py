"""`decompose --method nmf`: non-negative factors of a table of counts, and the topics they stand for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import Rows
from factorlake.models.trained import TraceRow
from factorlake.pipelines.context import Context
from factorlake.pipelines.decompose_input import Source
from factorlake.pipelines.decomposed import Decomposed, Step, held_factor_frame
from factorlake.reporting.content import Topic
from factorlake.reporting.decomposition_plots import convergence_figure, topics_figure
from factorlake.reporting.text import count, figure
from factorlake.spark.exchange import Exchange
from factorlake.spark.training import fit_pairs

RANK = 10
TOLERANCE = 1e-5


def run(context: Context, source: Source, workspace: str) -> Decomposed:
    """Factor the counts by the same engine that trains recommenders: rows are its users, columns its items."""
    settings = context.settings.decompose
    parameters = AlsParameters(
        objective="frobenius",
        nonnegative=True,
        rank=settings.rank or RANK,
        regularization=0.0,
        epochs=settings.iterations,
        tolerance=settings.tolerance or TOLERANCE,
        seed=context.settings.seed,
    )
    cells = _cells(source)

    def tell(row: TraceRow) -> None:
        context.progress(f"epoch {row.epoch} {row.side}: objective {row.loss:.6g} ({row.seconds:.2f} s)")

    exchange = Exchange(context.spark, f"{workspace}/factors")
    fitted = fit_pairs(
        context.spark,
        cells,
        parameters,
        workspace=workspace,
        plan=context.settings.train.plan,
        threads=context.settings.train.threads or None,
        progress=context.progress,
        on_half_step=tell,
    )
    model, shape = fitted.model, (fitted.users.n_ids, fitted.items.n_ids)
    rows, columns = (
        held_factor_frame(known.frame, exchange.ship_rows(held), np.ones(parameters.rank))
        for known, held in ((fitted.users, model.users), (fitted.items, model.items))
    )
    squares = cells.agg(F.sum(F.col("value") * F.col("value"))).collect()[0][0]
    relative = math.sqrt(max(model.loss, 0.0) / squares)
    topics = _topics(columns, _sums(model.users), _sums(model.items), settings.top_words)
    trace = tuple(
        Step(
            epoch=row.epoch,
            state=row.state,
            loss=row.loss,
            seconds=row.seconds,
            side=row.side,
            observed_loss=row.observed_loss,
            regularization_loss=row.regularization_loss,
        )
        for row in model.trace
    )
    return Decomposed(
        rows=rows,
        columns=columns,
        shape=shape,
        n_cells=fitted.n_observed,
        rank=parameters.rank,
        figures={"relative_error": relative, "objective": model.loss},
        facts=(
            ("rows × columns", f"{count(shape[0])} × {count(shape[1])}"),
            ("cells that are not 0", count(fitted.n_observed)),
            ("topics", count(parameters.rank)),
            ("objective ‖R − XYᵀ‖²", figure(model.loss)),
            ("relative error ‖R − XYᵀ‖ / ‖R‖", figure(relative)),
            ("epochs", f"{count(model.epochs)}, ended by: {model.stopped}"),
            ("held by", fitted.plan),
        ),
        trace=trace,
        plan=fitted.plan,
        drawings=(topics_figure(topics), convergence_figure(trace)),
        topics=topics,
        held=(fitted,),
    )


def _cells(source: Source) -> DataFrame:
    """Return (user_id, item_id, value) of what is not 0."""
    if source.table is None:
        raise ConfigError(f"decompose.method nmf takes a table of counts, and {source.name} is none")
    if source.kind == "cells":
        return source.table
    cells = source.table.select(F.col("id").alias("user_id"), F.posexplode("values").alias("item_id", "value"))
    return cells.where(F.col("value") != 0)


def _sums(rows: Rows) -> NDArray[np.float64]:
    """Return the sum of each factor over one side, block by block."""
    return np.sum([np.sum(block, axis=0, dtype=np.float64) for block in rows.blocks()], axis=0)


def _topics(
    columns: DataFrame, row_sums: NDArray[np.float64], column_sums: NDArray[np.float64], n: int
) -> tuple[Topic, ...]:
    """Return what weighs most in each factor, the factor with the largest share of Σ XYᵀ first."""
    weights = columns.select("id", F.posexplode("factor").alias("topic", "weight")).where(F.col("weight") > 0)
    by_weight = Window.partitionBy("topic").orderBy(F.desc("weight"), "id")
    best = weights.withColumn("place", F.row_number().over(by_weight)).where(F.col("place") <= n)
    found: dict[int, list[tuple[str, float]]] = {}
    for row in best.orderBy("topic", "place").collect():
        found.setdefault(row["topic"], []).append((row["id"], row["weight"]))
    made = row_sums * column_sums
    total = float(made.sum())
    return tuple(
        Topic(
            words=tuple(word for word, _ in found.get(topic, [])),
            weights=tuple(weight for _, weight in found.get(topic, [])),
            share=float(made[topic]) / total if total else 0.0,
        )
        for topic in np.argsort(-made, kind="stable").tolist()
    )
