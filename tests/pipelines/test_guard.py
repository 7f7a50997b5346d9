"""The guard rails of publish: figures worked by hand, and what a disaster leaves as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.pipelines.guard import figures_of
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.reference.contents import published_bytes, read_table

pytestmark = pytest.mark.spark


def lists_of(spark: SparkSession, **lists: str) -> DataFrame:
    """Lists of items named by a letter each."""
    pairs = [(user, item) for user, items in lists.items() for item in items]
    return spark.createDataFrame(pairs, "user_id string, item_id string")


def test_figures_are_those_worked_by_hand(spark: SparkSession) -> None:
    catalogue = spark.createDataFrame([(item,) for item in "abcdefghij"], "item_id string")
    live = lists_of(spark, kept="abcd", moved="abcd", shorter="abcd", gone="abcd")
    new = lists_of(spark, kept="dcba", moved="abef", shorter="ab", fresh="abcd")
    # Listed: a to f of ten items. Overlaps of the three users of both: 4 of 4, 2 of 4, 2 of the shorter list's 2.
    assert figures_of(new, live, catalogue) == pytest.approx(
        {"users_share": 4 / 4, "catalogue_share": 6 / 10, "mean_overlap": (1 + 0.5 + 1) / 3}
    )
    # Four places for ten items; nobody has both lists.
    alone = figures_of(lists_of(spark, fresh="abcd"), live, catalogue)
    assert alone == pytest.approx({"users_share": 1 / 4, "catalogue_share": 4 / 4, "mean_overlap": 0})
    assert figures_of(new, None, catalogue) == pytest.approx({"catalogue_share": 6 / 10})
    assert figures_of(lists_of(spark), live, catalogue) == {
        "users_share": 0, "catalogue_share": 0, "mean_overlap": 0
    }  # fmt: skip


def test_lists_that_lost_most_users_are_refused_until_they_are_published_by_force(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    version, settings = demo_run.line["model_version"], demo_settings(root, demo_run.log)
    before = published_bytes(root)
    users = sorted(set(read_table(root / "main" / "recommendations")["user_id"].to_pylist()))
    # What a job that lost most of its input leaves: new lists of the live model, for every third user.
    path = str(root / "main" / "candidates" / version / "lists")
    few = delta_io.read(spark, path).where(F.col("user_id").isin(users[::3]))
    delta_io.overwrite(spark, few, path, SCHEMAS["lists"], run_id="lost")

    refused = run_verb(spark, "publish", settings)
    share = len(users[::3]) / len(users)
    assert refused["exit_code"] == 3
    for told in (f"users_share is {share:.4g}", "limit of 0.5 (publish.least_users)", "--force"):
        assert told in refused["reason"]
    assert str(users[0]) not in refused["reason"]
    assert published_bytes(root) == before

    forced = run_verb(spark, "publish", settings, force=True)
    assert (forced["exit_code"], forced["figures"]["users_share"]) == (0, pytest.approx(share))
    assert forced["figures"]["mean_overlap"] == 1
    row = max(read_table(root / "main" / "publications").to_pylist(), key=lambda row: row["published_at"])
    assert (row["kind"], dict(row["figures"])) == ("forced", forced["figures"])
