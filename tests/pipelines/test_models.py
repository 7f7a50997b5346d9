"""Which model a job takes when none is named, and when it is judged again."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import Row, SparkSession

from factorlake.errors import ConfigError
from factorlake.pipelines import publish
from factorlake.pipelines.evaluate import judged_users
from factorlake.pipelines.models import chosen_model, model_version, of_its_settings
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.pipelines.lakes import context_at
from tests.reference.contents import read_table

pytestmark = pytest.mark.spark
# Late in the evening: the same day in UTC only.
AS_OF = datetime(2024, 5, 1, 23, 30, tzinfo=UTC)


def test_the_model_of_the_settings_is_taken_and_no_experiment(spark: SparkSession, lake_root: str) -> None:
    daily = context_at(spark, lake_root, "unused", train={"rank": 4})
    trial = context_at(spark, lake_root, "unused", train={"rank": 8, "objective": "explicit"})
    with pytest.raises(ConfigError, match="no model has been trained yet"):
        chosen_model(daily, None)
    versions = []
    for context, contents in ((daily, "old"), (daily, "new"), (trial, "new")):
        versions.append(model_version(context, AS_OF, contents))
        what = {"as_of": AS_OF, "fingerprint": contents, "seed": context.settings.seed}
        train = context.settings.train.model_dump_json()
        context.record_model({"model_version": versions[-1], "state": "trained", "settings": train, **what})
    _, new, other = versions
    daily.record_model({**chosen_model(daily, new).asDict(), "state": "published"})

    found = chosen_model(daily, None)
    assert (found["model_version"], found["state"]) == (new, "published")
    assert chosen_model(trial, None)["model_version"] == other
    # The plan computes the same model.
    local = context_at(spark, lake_root, "unused", train={"rank": 4, "plan": "local", "threads": 1})
    assert chosen_model(local, None)["model_version"] == new
    rank = {"train": {"rank": 4}}
    for change in ({"train": {"rank": 5}}, {**rank, "seed": 8}, {**rank, "select": {"min_value": 2.0}}):
        with pytest.raises(ConfigError, match=f"under these settings.*--model {other}"):
            chosen_model(context_at(spark, lake_root, "unused", **change), None)

    # A model that is named is judged by its own settings, on this machine's threads.
    named = of_its_settings(local, chosen_model(local, other)).settings.train
    assert (named.rank, named.objective, named.plan, named.threads) == (8, "explicit", "local", 1)


def test_a_model_is_judged_again_for_lists_of_another_length_or_another_split(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    by_hash = ("evaluate.split=hash", "evaluate.test_share=0.2")
    # The judgement made last is what the gate decides by, so the first one is made again in the end.
    for number, change in enumerate(((), ("evaluate.k=5",), by_hash, ())):
        settings = demo_settings(root, demo_run.log, *change)
        codes = [run_verb(spark, "evaluate", settings)["exit_code"] for _ in range(2)]
        assert codes == ([0, 99] if number else [99, 99])
    judged = read_table(root / "main" / "evaluation").to_pandas()
    judged = judged[(judged["name"] == "model") & judged["metric"].str.startswith("ndcg") & judged["slice"].isna()]
    assert sorted(zip(judged["split"], judged["metric"], strict=True)) == [
        ("hash", "ndcg@10"), ("time", "ndcg@10"), ("time", "ndcg@5"),
    ]  # fmt: skip


@pytest.mark.parametrize(("n_judged", "passes"), [(0, True), (1, True), (2, False)])
def test_a_model_that_too_few_could_judge_is_not_held_back(
    spark: SparkSession, lake_root: str, n_judged: int, passes: bool
) -> None:
    context = context_at(spark, lake_root, "unused")
    metrics = {judged_users("time"): float(n_judged), judged_users("hash"): 0.0}
    row = Row(model_version="new", cutoff=AS_OF, metrics=metrics, state="scored")
    if passes:
        assert "not compared" in publish._gate(context, row, Row(model_version="live"), force=False)
    else:
        with pytest.raises(ConfigError, match="was not judged beside the live live"):
            publish._gate(context, row, Row(model_version="live"), force=False)
