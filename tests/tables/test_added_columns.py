"""A table that is older than a column of its schema: read with nulls, and it gets the column with the next write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from factorlake.tables import delta_io, registry
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS
from tests.reference.contents import read_table

pytestmark = pytest.mark.spark
NOW = SCHEMAS["evaluation"]
BEFORE = replace(NOW, fields=StructType([field for field in NOW.fields if field.name != "slice"]))


def test_a_column_that_came_later_is_null_in_rows_of_before(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "evaluation")
    delta_io.append_rows(spark, [{"name": "old"}], path, BEFORE, run_id="a")
    assert "slice" not in read_table(path).column_names
    assert [row["slice"] for row in delta_io.read_or_empty(spark, path, NOW).collect()] == [None]
    assert delta_io.read_or_empty(spark, path, NOW, pinned=True).where("slice is null").count() == 1
    delta_io.append_rows(spark, [{"name": "new", "slice": "cold"}], path, NOW, run_id="b")
    rows = read_table(path).to_pylist()
    assert {row["name"]: row["slice"] for row in rows} == {"old": None, "new": "cold"}
    comment = delta_io.read(spark, path).schema["slice"].metadata["comment"]
    assert comment == NOW.fields["slice"].metadata["comment"]


def test_a_model_of_before_a_column_is_found_with_nulls_in_it(spark: SparkSession, lake_root: str) -> None:
    lake = Lake.at(lake_root, "main")
    models = SCHEMAS["models"]
    new = ("features", "user_feature_factors", "item_feature_factors", "spectrum")
    before = replace(models, fields=StructType([field for field in models.fields if field.name not in new]))
    delta_io.append_rows(spark, [{"model_version": "old", "rank": 4}], lake.own("models"), before, run_id="a")
    row = registry.model(spark, lake, "old")
    assert row is not None
    assert (row["rank"], [row[name] for name in new]) == (4, [None] * 4)
