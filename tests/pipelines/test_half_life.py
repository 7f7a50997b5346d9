"""Decay of events through the jobs: nobody learns of a time after the cut-off, and what judges does not decay."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, Row, SparkSession

from factorlake.config.loader import build
from factorlake.errors import ConfigError
from factorlake.models.held_out import HeldOutLists
from factorlake.pipelines import sgd, train
from factorlake.pipelines.context import Context
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.judging import split_pairs
from factorlake.pipelines.models import (
    held_out_truth,
    model_version,
    of_its_settings,
    selected_events,
    settings_of_model,
    training_pairs,
)
from factorlake.pipelines.tune_folds import open_folds
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.lakes import context_at
from tests.reference.contents import read_table

START = datetime(2025, 1, 1, tzinfo=UTC)
HOLDOUT_DAYS = 7.0
N_EVENTS = 400
TRAIN: dict[str, Any] = {
    "rank": 3,
    "epochs": 3,
    "early_stopping": None,
    "event_weights": {"like": 3.0},
    "half_life_days": {"like": 9.1, "play": 2.7},
    "value_scaling": "log",
    "value_scale": 0.2,
}


def log() -> list[dict[str, Any]]:
    """Events of thirty days at any second, the last of them before the cut-off some hours earlier than that."""
    rng = np.random.default_rng(8)
    seconds = np.sort(rng.integers(0, 30 * 86_400, N_EVENTS))
    cutoff = seconds[-1] - HOLDOUT_DAYS * 86_400
    seconds = seconds[(seconds < cutoff - 20_000) | (seconds > cutoff)]
    return [
        {
            "user_id": f"u{rng.integers(25)}",
            "item_id": f"i{rng.integers(12)}",
            "event_type": "like" if rng.random() < 0.3 else "play",
            "value": 1.0,
            "event_time": START + timedelta(seconds=int(second)),
            "event_id": f"{number}",
        }
        for number, second in enumerate(seconds)
    ]


def lake_of(spark: SparkSession, root: str, rows: list[dict[str, Any]], **settings: Any) -> Context:
    context = context_at(spark, root, "unused", **settings)
    context.append_rows(rows, context.lake.shared("interactions"), SCHEMAS["interactions"])
    return context


def known_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    cutoff = rows[-1]["event_time"] - timedelta(days=HOLDOUT_DAYS)
    return [row for row in rows if row["event_time"] <= cutoff]


def values(pairs: DataFrame) -> dict[tuple[str, str], float]:
    return {(row["user_id"], row["item_id"]): row["value"] for row in pairs.collect()}


def trained(context: Context) -> tuple[dict[str, Any], dict[str, list[float]]]:
    result = train.run(context)
    assert result.exit_code == 0
    model = delta_io.read(context.spark, context.lake.own("models")).collect()[0].asDict()
    rows = read_table(context.lake.candidate(str(result.model_version), "factors")).to_pylist()
    return model, {row["id"]: row["factor"] for row in rows if row["side"] == "item"}


@pytest.mark.spark
def test_training_with_a_holdout_is_training_without_the_later_events(spark: SparkSession, lake_root: str) -> None:
    rows = log()
    assert len(known_rows(rows)) < len(rows) - 50
    whole = lake_of(spark, f"{lake_root}/whole", rows, train={**TRAIN, "holdout_days": HOLDOUT_DAYS})
    early = lake_of(spark, f"{lake_root}/early", known_rows(rows), train=TRAIN)
    model, factors = trained(whole)
    other, other_factors = trained(early)
    assert factors == other_factors
    assert (model["loss"], model["gram"], model["n_observed"]) == (other["loss"], other["gram"], other["n_observed"])
    # And age counts.
    flat = context_at(spark, early.settings.root, "unused", train={**TRAIN, "half_life_days": None})
    pairs = values(training_pairs(early, selected_events(early)))
    assert pairs != values(training_pairs(flat, selected_events(flat)))

    # Judged on the same known pairs, of whatever comes later.
    known, held = split_pairs(whole, Row(**{"objective": "implicit", **model}))
    assert values(known) == pairs
    later = [row for row in rows if row not in known_rows(rows)]
    assert values(held).keys() == {(row["user_id"], row["item_id"]) for row in later}
    whole.append_rows(
        [{**rows[0], "event_id": "late", "event_time": rows[-1]["event_time"] + timedelta(days=400)}],
        whole.lake.shared("interactions"),
        SCHEMAS["interactions"],
    )
    late, _ = split_pairs(whole, Row(**{**model, "interactions_version": None}))
    assert values(late) == values(known)


@pytest.mark.spark
def test_what_judges_does_not_decay(spark: SparkSession, lake_root: str) -> None:
    """A play and a later skip of half its weight are a hit; were the play to fade, they would be none."""
    rows = log()
    cutoff = rows[-1]["event_time"] - timedelta(days=HOLDOUT_DAYS)
    new = {(f"u{n}", "i0") for n in range(25)} - {(row["user_id"], row["item_id"]) for row in rows}
    assert new
    for user, item in sorted(new):
        for number, kind in ((1, "play"), (5, "skip")):
            time = cutoff + timedelta(days=number)
            event = {"event_type": kind, "event_id": f"{user} {kind}", "event_time": time}
            rows.append({**rows[0], "user_id": user, "item_id": item, **event})
    fading = {**TRAIN, "event_weights": {"skip": -0.5}, "half_life_days": 2.0}
    tune = {"split": "time", "holdout_days": HOLDOUT_DAYS, "base_rank": 2}
    context = lake_of(spark, lake_root, rows, train=fading, tune=tune)
    events = selected_events(context)
    decayed, truth = values(training_pairs(context, events)), values(held_out_truth(context, events))
    for pair in new:
        assert decayed[pair] < 0 < truth[pair]

    row = Row(interactions_version=None, objective="implicit", cutoff=cutoff)
    held = values(split_pairs(context, row)[1])
    assert {pair for pair, value in held.items() if value > 0} >= new
    known = values(split_pairs(context, row)[0])
    told = {pair for pair, value in held.items() if value > 0 and pair not in known}
    users, items = {user for user, _ in known}, {item for _, item in known}
    parameters = replace(als_parameters(context.settings), rank=2)
    with open_folds(context, events, parameters, "ndcg", f"{lake_root}/work") as folds:
        found = folds.held_out[0]
        assert isinstance(found, HeldOutLists)
        assert len(found.truth_items) == len([1 for user, item in told if user in users and item in items])


@pytest.mark.spark
def test_with_alpha_what_has_faded_is_not_observed(spark: SparkSession, lake_root: str) -> None:
    """Half-lives of hours: the oldest pairs would have targets that no float32 holds."""
    rows = log()
    fading = {**TRAIN, "alpha": 8.0, "half_life_days": 0.1, "value_scaling": "linear", "value_scale": 1.0}
    context = lake_of(spark, lake_root, rows, train=fading)
    newest = max(row["event_time"] for row in rows)
    weights: dict[tuple[str, str], float] = {}
    for row in rows:
        weight = (3.0 if row["event_type"] == "like" else 1.0) * 0.5 ** (
            (newest - row["event_time"]).total_seconds() / 8640
        )
        pair = (row["user_id"], row["item_id"])
        weights[pair] = weights.get(pair, 0.0) + weight
    observed = {pair for pair, r in weights.items() if 8 * r >= 2.0**-20}
    assert 0 < len(observed) < len(weights)
    assert values(training_pairs(context, selected_events(context))).keys() == observed
    model, factors = trained(context)
    assert model["n_observed"] == len(observed)
    assert np.isfinite(list(factors.values())).all()


@pytest.mark.spark
def test_settings_kept_before_there_was_a_half_life_are_read(spark: SparkSession, lake_root: str) -> None:
    context = context_at(spark, lake_root, "unused", train={"rank": 4, "value_scaling": "log"})
    kept = json.loads(settings_of_model(context, "als", 0.5))
    for name in ("half_life_days", "value_scale"):
        del kept[name]
    now = context_at(spark, lake_root, "unused", train=TRAIN)
    then = of_its_settings(now, Row(settings=json.dumps(kept), seed=3)).settings.train
    assert (then.half_life_days, then.value_scale, then.value_scaling, then.regularization) == (None, 1.0, "log", 0.5)
    # And those kept since come back as they were.
    row = Row(settings=settings_of_model(now, "als", 0.01), seed=now.settings.seed)
    again = of_its_settings(now, row)
    assert again.settings.train == now.settings.train
    versions = {
        model_version(context_at(spark, lake_root, "unused", train={**TRAIN, **change}), START, "contents")
        for change in ({}, {"half_life_days": None}, {"half_life_days": 9.1}, {"value_scale": 0.3})
    }
    assert len(versions) == 4
    assert model_version(again, START, "contents") in versions


@pytest.mark.spark
def test_stochastic_gradients_take_neither_half_life_nor_features(spark: SparkSession, lake_root: str) -> None:
    with pytest.raises(ConfigError, match=r"sgd trains on ratings.*leave train\.half_life_days out"):
        sgd.run(context_at(spark, lake_root, "unused", train={"half_life_days": 30}))
    with pytest.raises(ConfigError, match=r"sgd trains on ratings.*leave train\.features out"):
        sgd.run(context_at(spark, lake_root, "unused", train={"features": {"items": ["category"]}}))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"half_life_days": 0}, r"train\.half_life_days.*greater than 0, got 0"),
        ({"half_life_days": {"play": 3, "like": -1}}, r"train\.half_life_days.*greater than 0, got -1"),
        ({"half_life_days": float("inf")}, "got inf; leave it out"),
        ({"half_life_days": float("nan")}, "got nan; leave it out"),
        (
            {"half_life_days": 3, "objective": "explicit"},
            "half_life_days .* objective explicit .* leave half_life_days",
        ),
        (
            {"half_life_days": {"play": 3}, "objective": "frobenius", "nonnegative": True},
            "half_life_days .* objective frobenius .* leave half_life_days",
        ),
        ({"half_life_days": 3, "combine": "count"}, "combine count .* half_life_days .* set combine sum"),
        ({"half_life_days": 3, "alpha": 40}, r"with alpha and half_life_days .* set early_stopping null"),
        ({"value_scale": 2.0}, "value_scale .* value_scaling linear .* set value_scaling log"),
        ({"value_scale": 0, "value_scaling": "log"}, r"train\.value_scale.*greater than 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build({"train": given})


def test_settings_without_decay_are_those_of_before() -> None:
    settings: tuple[dict[str, Any], ...] = ({}, {"half_life_days": None}, {"half_life_days": {}})
    for given in settings:
        train_settings = build({"train": {**given, "combine": "count", "value_scale": 1.0}}).train
        assert not train_settings.half_life_days


@pytest.mark.spark
@pytest.mark.parametrize("days_late", [1, 7, 29])
def test_an_event_that_comes_late_changes_the_rating_of_its_own_pair_and_no_other(
    spark: SparkSession, lake_root: str, days_late: int
) -> None:
    rows = log()
    context = lake_of(spark, lake_root, rows, train=TRAIN)
    before = values(training_pairs(context, selected_events(context)))
    newest = rows[-1]["event_time"]
    pair = (rows[0]["user_id"], rows[0]["item_id"])
    late = {**rows[0], "event_id": "late", "event_time": newest - timedelta(days=days_late)}
    context.append_rows([late], context.lake.shared("interactions"), SCHEMAS["interactions"])
    after = values(training_pairs(context, selected_events(context)))
    # Bit for bit: ages are measured to the newest event, whenever what came.
    assert {key: value for key, value in after.items() if key != pair} == {
        key: value for key, value in before.items() if key != pair
    }
    assert after[pair] > before[pair]
    # One that is newer than all makes every other event older.
    context.append_rows(
        [{**late, "event_id": "new", "event_time": newest + timedelta(days=1)}],
        context.lake.shared("interactions"),
        SCHEMAS["interactions"],
    )
    newer = values(training_pairs(context, selected_events(context)))
    assert all(newer[key] < after[key] for key in after if key != pair)
