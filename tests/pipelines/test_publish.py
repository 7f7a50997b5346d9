"""The model gate: a worse candidate leaves what is live bit for bit as it was, until a person insists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.config.loader import load_settings
from factorlake.config.settings import Settings
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.demo_lake import CONF, SIZE, DemoRun, demo_settings, run_verb
from tests.reference.contents import published_bytes, read_table, rows_of

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

    # A run of the first model's settings judges it, and leaves what a person chose.
    chosen = published_bytes(lake)
    again = [run_verb(spark, "run", demo_settings(lake, demo_run.log)) for _ in range(2)]
    assert [line["exit_code"] for line in again] == [0, 99]
    assert f"model {first} was live before {worse} took its place" in again[1]["reason"]
    assert published_bytes(lake) == chosen


def test_a_candidate_that_was_never_judged_is_not_published(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    settings = demo_settings(root, demo_run.log, "train.rank=3")
    before = published_bytes(root)
    codes = [run_verb(spark, verb, settings)["exit_code"] for verb in ("train", "recommend", "publish")]
    assert codes == [0, 0, 2]
    assert published_bytes(root) == before


def test_a_worse_explicit_model_is_refused_by_its_rating_error(spark: SparkSession, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def rated(*more: str) -> Settings:
        of_ratings = [
            f"root={tmp_path}/lake",
            f"input={log}/ratings",
            f"attributes.items.input={log}/tracks.csv",
            *(size for size in SIZE if size.startswith("demo")),
        ]
        return load_settings([CONF / "base" / "demo_ratings.yaml"], [*of_ratings, *more])

    assert run_verb(spark, "run", rated())["exit_code"] == 0
    before = published_bytes(tmp_path / "lake")
    # A ridge this large leaves next to nothing but the mean.
    worse = run_verb(spark, "run", rated("train.regularization=1000", "train.bias_regularization=10000"))
    assert worse["exit_code"] == 3, worse["reason"]
    assert "is worse than the live" in worse["reason"]
    assert published_bytes(tmp_path / "lake") == before


def test_publishing_what_is_live_already_does_nothing(spark: SparkSession, demo_run: DemoRun) -> None:
    before = published_bytes(demo_run.root)
    line = run_verb(spark, "publish", demo_settings(demo_run.root, demo_run.log))
    assert (line["exit_code"], line["model_version"]) == (99, demo_run.line["model_version"])
    assert published_bytes(demo_run.root) == before


def test_publishing_the_live_model_brings_back_a_table_that_a_killed_run_moved_on(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    table = root / "main" / "item_factors"
    before = rows_of(table)
    # What another model's publish leaves when it is killed after its first table.
    moved = delta_io.read(spark, str(table)).withColumn("bias", F.lit(7.0)).limit(40)
    delta_io.overwrite(spark, moved, str(table), SCHEMAS["item_factors"], run_id="killed")
    assert rows_of(table) != before

    settings = demo_settings(root, demo_run.log)
    line = run_verb(spark, "publish", settings)
    assert (line["exit_code"], line["model_version"]) == (0, demo_run.line["model_version"])
    assert rows_of(table) == before
    assert run_verb(spark, "publish", settings)["exit_code"] == 99


def test_lists_of_another_rule_are_made_anew_and_published(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    before = published_bytes(root)
    verbs = ("recommend", "publish", "recommend", "publish")
    five = demo_settings(root, demo_run.log, "recommend.k=5")
    assert [run_verb(spark, verb, five)["exit_code"] for verb in verbs] == [0, 0, 99, 99]
    ranks = read_table(root / "main" / "recommendations").to_pandas().groupby("user_id")["rank"].max()
    assert set(ranks) == {5}
    now = published_bytes(root)
    assert [name for name in before if now[name] != before[name]] == ["recommendations", "publications"]

    # An item that is withdrawn leaves the lists of the model that is live, without new events.
    listed = read_table(root / "main" / "recommendations").to_pandas()["item_id"].mode()[0]
    path = str(root / "item_attributes")
    gone = F.when(F.col("id") == listed, F.timestamp_seconds(F.lit(0))).otherwise(F.col("available_to"))
    attributes = delta_io.read(spark, path).withColumn("available_to", gone)
    delta_io.overwrite(spark, attributes, path, SCHEMAS["item_attributes"], run_id="withdrawn")
    assert [run_verb(spark, verb, five)["exit_code"] for verb in verbs] == [0, 0, 99, 99]
    assert listed not in set(read_table(root / "main" / "recommendations")["item_id"].to_pylist())
