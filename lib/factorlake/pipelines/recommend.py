"""Write a candidate's lists: reads its factors, its calibration and the interactions it was trained on, writes
candidates/VERSION/lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO
from factorlake.evaluation.calibration import Calibration
from factorlake.models.blocks import number_of_blocks
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.models import chosen_model, seen_pairs
from factorlake.spark.exchange import Exchange
from factorlake.spark.item_side import load_items
from factorlake.spark.scorer import score_top_k
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS


def run(context: Context, model: str | None = None) -> JobResult:
    """Score every user of the candidate; exactly k items each, seen items left out by the rule in the settings.

    Lists that were made by the same rule are left as they are (99).
    """
    spark, lake, settings = context.spark, context.lake, context.settings
    row = chosen_model(context, model)
    version = row["model_version"]
    path = lake.candidate(version, "lists")
    unavailable = _unavailable(context, row)
    calibration = _calibration(context, version)
    rule = _rule(context, unavailable, calibration)
    # Lists of before the rule was noted are taken as they are.
    if (
        row["state"] in ("scored", "published", "refused")
        and delta_io.last_details(spark, path).get("rule", rule) == rule
    ):
        return JobResult(NOTHING_TO_DO, f"model {version} has its lists already", model_version=version)
    factors = delta_io.read(spark, lake.candidate(version, "factors"))
    with Exchange(spark, lake.exchange(version)) as exchange:
        model_items = factors.where(F.col("side") == "item")
        items = load_items(model_items, exchange, row["mean"], unavailable)
        users = factors.where(F.col("side") == "user").select(F.col("id").alias("user_id"), "factor", "bias")
        seen = seen_pairs(context, row["interactions_version"])
        context.progress(f"scoring {row['n_items']} items, lists of {settings.recommend.k}")
        lists = score_top_k(users, seen, items.shipped, settings.recommend.k, number_of_blocks(row["n_observed"]))
        calibrated = with_probability(lists, calibration)
        commit = context.overwrite(calibrated, path, SCHEMAS["lists"], details={"rule": rule})
    figures = (
        delta_io.read(spark, path, commit.version)
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.countDistinct("user_id").alias("users"),
            F.countDistinct("item_id").alias("items"),
            F.countDistinct(F.when(F.col("source") != "model", F.col("user_id"))).alias("by_popularity"),
        )
        .collect()[0]
        .asDict()
    )
    context.record_model({**row.asDict(), "state": "scored"})
    return JobResult(counts=figures, versions={"lists": commit.version}, model_version=version)


def _calibration(context: Context, version: str) -> Calibration | None:
    """Return what `evaluate` found last of a model's scores; None where it was not asked to."""
    found = delta_io.read_or_empty(context.spark, context.lake.own("calibrations"), SCHEMAS["calibrations"])
    rows = found.where(F.col("model_version") == version).orderBy(F.desc("recorded_at")).limit(1).collect()
    return Calibration.from_lists(rows[0]["scores"], rows[0]["probabilities"]) if rows else None


def with_probability(lists: DataFrame, calibration: Calibration | None) -> DataFrame:
    """Return lists (user_id, rank, item_id, score, source) with the probability that belongs to each score: null
    without a calibration, and of items that popularity lists, whose scores are counts."""
    if calibration is None:
        return lists.withColumn("probability", F.lit(None).cast("float"))
    known = calibration

    def tell(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            told = known.apply(batch["score"].to_numpy(zero_copy_only=False)).astype(np.float32)
            by_model = np.array(batch["source"].to_pylist(), object) == "model"
            yield batch.append_column("probability", pa.array(told, mask=~by_model))

    schema = "user_id string, rank int, item_id string, score float, source string, probability float"
    return lists.select("user_id", "rank", "item_id", "score", "source").mapInArrow(tell, schema)


def _rule(context: Context, unavailable: DataFrame, calibration: Calibration | None) -> str:
    """Return a hash of all that decides on a model's lists beside the model."""
    hashed = F.coalesce(F.sum(F.xxhash64("id").cast("decimal(38,0)")), F.lit(0))
    n_items, ids = unavailable.agg(F.count(F.lit(1)), hashed).collect()[0]
    what = {**context.settings.recommend.model_dump(mode="json"), "unavailable": [n_items, int(ids)]}
    if calibration is not None:
        what["calibration"] = calibration.to_lists()
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _unavailable(context: Context, row: Row) -> DataFrame:
    """Return the ids of items whose attributes rule them out at the model's as_of."""
    attributes, _ = context.read_known("item_attributes")
    as_of = F.lit(row["as_of"])
    return attributes.where((F.col("available_from") > as_of) | (F.col("available_to") < as_of)).select("id")
