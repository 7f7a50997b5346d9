"""The model gate: a worse candidate leaves what is live bit for bit as it was, until a person insists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.reference.contents import published_bytes, read_table

pytestmark = pytest.mark.spark

# One direction of taste, hardly trained: not far from popularity, which the demo model beats clearly.
WORSE = ("train.rank=1", "train.epochs=1", "train.regularization=1")


@pytest.fixture(scope="module")
def lake(demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(demo_run.root, tmp_path_factory.mktemp("gate") / "lake"))


def test_a_worse_candidate_is_refused_until_it_is_published_by_force(
    spark: SparkSession, demo_run: DemoRun, lake: Path
) -> None:
    settings = demo_settings(lake, demo_run.log, *WORSE)
    before = published_bytes(lake)
    first = demo_run.line["model_version"]

    refused = run_verb(spark, "run", settings)
    worse = refused["model_version"]
    assert (refused["exit_code"], worse != first) == (3, True)
    assert f"model {worse} is worse than the live {first}" in refused["reason"]
    assert "--force" in refused["reason"]
    assert published_bytes(lake) == before

    asked_again = run_verb(spark, "publish", settings)
    assert (asked_again["exit_code"], asked_again["model_version"]) == (3, None)
    assert published_bytes(lake) == before

    forced = run_verb(spark, "publish", settings, force=True)
    assert (forced["exit_code"], forced["model_version"]) == (0, worse)
    for table in ("user_factors", "item_factors", "recommendations"):
        path = lake / "main" / table
        assert set(read_table(path)["model_version"].to_pylist()) <= {worse, first}
    assert set(read_table(lake / "main" / "user_factors")["model_version"].to_pylist()) == {worse}

    # The first model was never judged beside the one that is live now, so the gate has nothing to go by.
    unjudged = run_verb(spark, "publish", settings, model=first)
    assert unjudged["exit_code"] == 2
    assert f"factorlake evaluate --model {first}" in unjudged["reason"]


def test_publishing_what_is_live_already_does_nothing(spark: SparkSession, demo_run: DemoRun) -> None:
    before = published_bytes(demo_run.root)
    line = run_verb(spark, "publish", demo_settings(demo_run.root, demo_run.log))
    assert (line["exit_code"], line["model_version"]) == (99, demo_run.line["model_version"])
    assert published_bytes(demo_run.root) == before
