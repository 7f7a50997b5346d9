"""`tune` on a small log: trials in their table, the same search after a kill, a conf file that trains to its figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from factorlake.config.loader import build, load_settings
from factorlake.errors import ConfigError
from factorlake.models.als import train as train_model
from factorlake.models.search import Proposal, Space, Trial
from factorlake.models.trained import Snapshot
from factorlake.models.trials import TrialRunner, scales_of
from factorlake.models.tuning import tune_ratings
from factorlake.pipelines import train, tune
from factorlake.pipelines.context import Context
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.models import selected_events
from factorlake.pipelines.tune_folds import fold_of_events, open_folds
from factorlake.pipelines.tune_records import search_id_of
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS
from tests.reference.contents import read_table
from tests.reference.planted_tastes import planted_log

pytestmark = pytest.mark.spark
START = datetime(2025, 1, 1, tzinfo=UTC)
TUNE = {"trials": 4, "base_rank": 4, "max_rank": 8, "max_epochs": 5, "k": 5, "test_share": 0.2}
TRAIN = {"rank": 4, "epochs": 5}
# What differs from run to run: when it was, and how long it took.
TIMES = ("seconds", "recorded_at", "run_id")


def context_of(spark: SparkSession, root: str, train: dict[str, Any] | None = None, **tune_settings: Any) -> Context:
    values = {"root": root, "train": {**TRAIN, **(train or {})}, "tune": {**TUNE, **tune_settings}}
    return Context(spark, build(values), Lake.at(root, "main"), "run", lambda _: None, "conf", lambda: 1)


def write_log(context: Context) -> None:
    """A planted log as accepted events, an hour apart."""
    explicit = context.settings.train.objective == "explicit"
    users, items, values = planted_log(explicit, n_users=60, n_items=30)
    order = np.random.default_rng(2).permutation(len(users))
    rows = [
        {"user_id": users[n], "item_id": items[n], "event_type": "event", "event_id": str(n),
         "value": 1.0 if values is None else float(values[n]), "event_time": START + timedelta(hours=place)}
        for place, n in enumerate(order.tolist())
    ]  # fmt: skip
    context.append_rows(rows, context.lake.shared("interactions"), SCHEMAS["interactions"])


def trials_of(context: Context) -> list[dict[str, Any]]:
    rows = read_table(context.lake.own("trials")).to_pylist()
    kept = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
    return sorted(kept, key=lambda row: (row["search_id"], row["trial"], row["stage"]))


def stops_at(line: str) -> Callable[[str], None]:
    """Progress that ends the process, as a kill would, when it is told a line that begins so."""

    def tell(told: str) -> None:
        if told.startswith(line):
            raise KeyboardInterrupt(told)

    return tell


@pytest.mark.parametrize("objective", ["implicit", "explicit"])
def test_a_search_leaves_trials_and_settings_that_train_to_its_figure(
    spark: SparkSession, lake_root: str, objective: str
) -> None:
    context = context_of(spark, lake_root, {"objective": objective, "holdout_days": 5})
    write_log(context)
    result = tune.run(context)
    assert result.exit_code == 0
    assert result.counts["trials"] == 4

    rows = trials_of(context)
    searched = [row for row in rows if row["stage"] not in ("given", "baseline", "chosen")]
    assert [row["trial"] for row in searched] == [1, 2, 3, 4]
    assert {row["state"] for row in rows} == {"done"}
    assert {row["metric"] for row in rows} == {"ndcg@5" if objective == "implicit" else "rmse"}
    for row in searched:
        settings = json.loads(row["settings"])
        assert (settings["rank"], settings["regularization"]) == (row["rank"], row["regularization"])
        assert row["epochs"] >= row["best_epoch"] >= 1
        assert (row["unobserved_weight"] is None) == (objective == "explicit")
    by_stage = {row["stage"]: row for row in rows}
    best = max if objective == "implicit" else min
    cold = [row["value"] for row in searched if row["started_from"] is None]
    assert by_stage["chosen"]["value"] == best([*cold, by_stage["given"]["value"]])
    assert result.details["value"] == by_stage["chosen"]["value"]
    # What was planted can be found: the settings beat popularity, and biases alone.
    assert best(result.details["value"], result.details["baseline"]) == result.details["value"]

    # The conf file lies over others, and its settings reach the same figure again on the same held-out pairs.
    path = result.details["conf"]
    assert path == f"{lake_root}/main/tuned.yaml"
    text = Path(path).read_text(encoding="utf-8")
    assert result.details["search_id"] in text
    assert f"{result.details['baseline']:.4f}" in text
    base = Path(lake_root) / "base.yaml"
    base.write_text(yaml.safe_dump({"root": lake_root, "train": {"objective": objective, "holdout_days": 5}}))
    tuned = load_settings([base, path])
    assert tuned.train.early_stopping is None
    values: list[float] = []
    with _folds(context) as opened:

        def look(_: int, state: Snapshot[Any]) -> float:
            values.append(opened.folds[0].judge(state))
            return values[-1]

        train_model(opened.folds[0].plan, als_parameters(tuned), validate=look)
    assert abs(values[-1]) == result.details["value"]
    if objective == "implicit":
        assert train.run(replace(context, settings=tuned)).exit_code == 0

    # The report tells it all, and nothing is left of what the search kept.
    page = Path(result.details["report"]).read_text(encoding="utf-8")
    assert "Search for settings" in page
    assert page.count("<svg") == 3
    assert "Rank curve" in result.details["summary"]
    assert not list(Path(lake_root).glob("main/searches/**/*.npy"))


def _folds(context: Context) -> Any:
    events = selected_events(context)
    settings = context.settings
    parameters = replace(als_parameters(settings), rank=settings.tune.base_rank)
    metric: Any = "rmse" if settings.train.objective == "explicit" else "ndcg"
    if settings.train.holdout_days:
        newest = START + timedelta(hours=599)
        events = events.where(events["event_time"] <= newest - timedelta(days=settings.train.holdout_days))
    return open_folds(context, events, parameters, metric, f"{context.lake.root}/work")


def test_a_killed_search_goes_on_and_ends_as_one_that_was_not(spark: SparkSession, tmp_path: Path) -> None:
    whole = context_of(spark, str(tmp_path / "whole"))
    write_log(whole)
    undisturbed = tune.run(whole)
    assert undisturbed.exit_code == 0

    killed = context_of(spark, str(tmp_path / "killed"))
    write_log(killed)
    # Before what it is compared with is known; and after a trial of few epochs that the next one goes on from.
    for line in ("popularity", "trial 1 "):
        with pytest.raises(KeyboardInterrupt):
            tune.run(replace(killed, progress=stops_at(line)))
    # Out of time: what there is so far is a result.
    stopped = tune.run(context_of(spark, killed.lake.root, max_minutes=1e-9))
    assert (stopped.exit_code, stopped.counts["trials"], stopped.details["complete"]) == (0, 1, False)
    assert "run again to go on" in stopped.reason
    assert Path(stopped.details["conf"]).exists()
    finished = tune.run(killed)
    assert (finished.exit_code, finished.counts["new_trials"], finished.details["complete"]) == (0, 3, True)
    assert trials_of(killed) == trials_of(whole)
    assert finished.details["settings"] == undisturbed.details["settings"]

    # Complete is complete; a conf file that is gone is written again.
    Path(finished.details["conf"]).unlink()
    again = tune.run(killed)
    assert again.exit_code == 99
    assert "complete" in again.reason
    assert Path(again.details["conf"]).read_text(encoding="utf-8") == finished.details["settings"]
    assert len(trials_of(killed)) == len(trials_of(whole))


def test_other_settings_are_another_search_and_how_it_is_computed_is_not(spark: SparkSession, lake_root: str) -> None:
    write_log(context_of(spark, lake_root))
    out = f"{lake_root}/conf/local/mine.yaml"
    first = tune.run(context_of(spark, lake_root, trials=1, out=out))
    assert Path(out).exists()
    same = context_of(spark, lake_root, {"plan": "local", "threads": 1}, trials=1, max_minutes=9)
    assert tune.run(same).exit_code == 99
    others = [
        context_of(spark, lake_root, trials=2),
        context_of(spark, lake_root, trials=1, k=4),
        context_of(spark, lake_root, {"init_scale": 0.1}, trials=1),
        context_of(spark, lake_root, trials=1),
    ]
    names = {search_id_of(one, contents) for one, contents in zip(others, ("a", "a", "a", "b"), strict=True)}
    assert len({first.details["search_id"], search_id_of(same, "a"), *names}) == 6


def test_a_rank_that_does_not_fit_is_refused_where_the_plan_was_chosen(
    spark: SparkSession, lake_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(spark, lake_root)
    write_log(context)
    with _folds(context) as opened:
        assert opened.refuse(8) is None
        # 60 users and 30 items of rank 8 are 2,880 bytes of factors: four times in training, six times kept.
        n_pairs = opened.folds[0].plan.problem.n_obs
        monkeypatch.setattr("factorlake.pipelines.tune_folds.DRIVER_MEMORY", 10 * 2_880 - 1 + 24 * n_pairs)
        assert opened.refuse(7) is None
        assert "tune.max_rank" in str(opened.refuse(8))
        assert replace(opened, may_refuse=False).refuse(8) is None


def test_trials_are_the_same_bits_in_every_plan_and_without_spark(spark: SparkSession, tmp_path: Path) -> None:
    told = []
    for plan in ("local", "broadcast", "shuffle"):
        context = context_of(spark, str(tmp_path / plan), {"plan": plan})
        write_log(context)
        parameters = als_parameters(context.settings)
        with _folds(context) as opened:
            assert {one.name for one in opened.opened} == {plan}
            space = Space(parameters, scales_of(opened.folds[0].plan), 4, 8, max_epochs=2)
            runner = TrialRunner(opened.folds, space, 1, context.settings.seed)
            cold = Proposal(1, "design", tuple(space.point(parameters)), 4, 2, None)
            first = runner.run(cold, [])
            trials = [Trial(cold, first.value, first.best_epoch)]
            # From the factors of half the rank.
            second = runner.run(Proposal(2, "ranks", cold.point, 8, 1, 1), trials)
        told.append([(one.value, one.best_epoch, one.objective) for one in (first, second)])
    assert told[0] == told[1] == told[2]
    users, items, _ = planted_log(n_users=60, n_items=30)
    alone = tune_ratings(
        users, items, None, parameters, 1, base_rank=4, max_rank=8, max_epochs=2, k=5, share=0.2, threads=2
    )
    assert list(alone.trials) == trials


@pytest.mark.parametrize(
    ("tuned", "n_held"),
    # 600 pairs an hour apart; each of 60 users has 10.
    [({"split": "time", "holdout_days": 2.0}, 48), ({"split": "last_n", "last_n": 3}, 180)],
)
def test_splits_hold_out_what_they_say(spark: SparkSession, lake_root: str, tuned: dict[str, Any], n_held: int) -> None:
    context = context_of(spark, lake_root, **tuned)
    write_log(context)
    known, held = fold_of_events(context, selected_events(context), 0)
    assert (known.count(), held.count()) == (600 - n_held, n_held)
    with _folds(context) as opened:
        assert opened.folds[0].plan.problem.n_obs == 600 - n_held


def test_folds_by_hash_hold_each_pair_out_once(spark: SparkSession, lake_root: str) -> None:
    context = context_of(spark, lake_root, {"objective": "explicit"}, folds=3, trials=1, metric="mae")
    write_log(context)
    events = selected_events(context)
    held = [fold_of_events(context, events, number)[1].select("event_id").collect() for number in range(3)]
    ids = [row["event_id"] for part in held for row in part]
    assert sorted(ids) == sorted(row["event_id"] for row in events.select("event_id").collect())
    assert tune.run(context).exit_code == 0
    rows = trials_of(context)
    assert all(row["standard_error"] > 0 for row in rows)
    assert {row["metric"] for row in rows} == {"mae"}


def test_what_train_holds_back_is_never_looked_at(spark: SparkSession, lake_root: str) -> None:
    """Whatever happens after the cut-off, the search is the same but for its name."""
    context = context_of(spark, lake_root, {"holdout_days": 5}, trials=1)
    write_log(context)
    first = tune.run(context)
    late = {"user_id": "u1", "item_id": "i1", "event_type": "event", "event_id": "late", "value": 1.0}
    late_times = [START + timedelta(hours=598, minutes=minute) for minute in (10, 20)]
    rows = [{**late, "event_id": f"late-{n}", "event_time": time} for n, time in enumerate(late_times)]
    context.append_rows(rows, context.lake.shared("interactions"), SCHEMAS["interactions"])
    second = tune.run(context)
    assert first.details["search_id"] != second.details["search_id"]
    parts = [first.details[name] == second.details[name] for name in ("value", "given", "baseline", "rank_curve")]
    assert all(parts)


def test_settings_that_fit_no_search_are_refused(spark: SparkSession, lake_root: str) -> None:
    write_log(context_of(spark, lake_root))
    wrong: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {"metric": "rmse"}, "does not fit the objective"),
        ({"objective": "explicit"}, {"metric": "ndcg"}, "does not fit the objective"),
        ({}, {"split": "time"}, "tune.holdout_days"),
        ({}, {"out": "s3://bucket/tuned.yaml"}, "name a file of this machine"),
        ({"objective": "frobenius", "nonnegative": True}, {}, "frobenius"),
    ]
    for train_settings, tune_settings, match in wrong:
        with pytest.raises(ConfigError, match=match):
            tune.run(context_of(spark, lake_root, train_settings, **tune_settings))
    with pytest.raises(ConfigError, match="folds 1"):
        context_of(spark, lake_root, split="time", holdout_days=1.0, folds=3)
    with pytest.raises(ConfigError, match="above max_rank"):
        context_of(spark, lake_root, base_rank=64, max_rank=8)
