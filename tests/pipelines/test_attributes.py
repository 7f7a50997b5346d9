"""Attributes from files and from events."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.models.features import Vocabulary
from factorlake.pipelines import attributes, ingest, train, validate
from factorlake.pipelines.context import Context
from factorlake.pipelines.features import kept_features, learn_features, read_attributes
from factorlake.tables import delta_io
from tests.pipelines.lakes import context_at, write_csv

pytestmark = pytest.mark.spark


def table(context: Context, side: str) -> dict[str, dict]:
    frame = delta_io.read(context.spark, context.lake.shared(f"{side}_attributes"))
    rows = frame.withColumn("us", F.unix_micros("available_from")).collect()
    return {row["id"]: row.asDict() for row in rows}


def test_attributes_from_files_are_rewritten_only_when_they_change(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    file = write_csv(
        tmp_path / "tracks.csv",
        " t1 ,Rain,jazz,2024-01-01,blue",
        "t2,Snow,,,",
        ",Nameless,,,",
        "broken",
        header="track,title,genre,since,mood",
    )
    source: dict[str, Any] = {
        "input": str(file),
        "columns": {"id": "track", "name": "title", "category": "genre", "available_from": "since"},
    }
    context = context_at(spark, lake_root, "none", attributes={"items": source})
    first = attributes.run(context)
    assert (first.exit_code, first.counts["items"]) == (0, 2)
    assert (first.counts["item_broken"], first.counts["item_without_id"]) == (1, 1)
    found = table(context, "item")
    assert found["t1"]["us"] == round(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    assert (found["t1"]["name"], found["t1"]["category"], found["t1"]["features"]) == (
        "Rain",
        "jazz",
        {"mood": "blue"},
    )
    assert (found["t2"]["name"], found["t2"]["category"], found["t2"]["features"]) == ("Snow", None, {})

    assert attributes.run(context).exit_code == 99
    write_csv(file, "t1,Rain,jazz,2024-01-01,red", "t2,Snow,,,", header="track,title,genre,since,mood")
    assert attributes.run(context).exit_code == 0
    assert table(context, "item")["t1"]["features"] == {"mood": "red"}

    lacking = {**source, "columns": {"id": "track", "name": "label"}}
    with pytest.raises(DataRefusedError, match=r"'label'.*attributes.items.columns.name"):
        attributes.run(context_at(spark, lake_root, "none", attributes={"items": lacking}))


def test_optional_attributes_beside_the_log_are_taken_where_there_are_any(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source = {"input": "{input}/tracks.csv", "columns": {"id": "track", "name": "title"}}
    (tmp_path / "log").mkdir()

    def at(log: Path, **settings: bool) -> Context:
        return context_at(spark, lake_root, f"{log}/", attributes={"items": {**source, **settings}})

    with pytest.raises(ConfigError, match=r"log/tracks\.csv does not exist"):
        attributes.run(at(tmp_path / "log"))
    assert attributes.run(at(tmp_path / "log", optional=True)).exit_code == 99
    write_csv(tmp_path / "log" / "tracks.csv", "t1,Rain", header="track,title")
    assert attributes.run(at(tmp_path / "log", optional=True)).exit_code == 0
    # Another log that has none leaves those of the first as they are.
    assert attributes.run(at(tmp_path / "other", optional=True)).exit_code == 99
    assert table(at(tmp_path / "log"), "item")["t1"]["name"] == "Rain"


def test_most_frequent_value_of_accepted_events_is_taken_and_is_no_feature_where_some_are_held_out(
    spark: SparkSession, lake_root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        "u1,i1,1,2024-01-01T00:00:01Z,Cup,red",
        "u1,i1,1,2024-01-01T00:00:02Z,Cup,blue",
        "u1,i1,1,2024-01-01T00:00:03Z,cup?,blue",
        # Copies and refused rows have no vote.
        *["u1,i1,1,2024-01-01T00:00:03Z,cup?,blue"] * 3,
        *[f",i1,1,2024-01-01T00:00:0{n}Z,Broken,blue" for n in range(3)],
        # A tie goes to the smallest value; blanks are no value.
        "u1,i2,1,2024-01-01T00:00:01Z,b,",
        "u1,i2,1,2024-01-01T00:00:02Z,a,  ",
    ]
    write_csv(tmp_path / "log" / "a.csv", *rows, header="user_id,item_id,value,event_time,label,colour")
    items: dict[str, Any] = {"source": "events", "columns": {"name": "label"}, "features": ["colour"]}
    context = context_at(spark, lake_root, tmp_path / "log", attributes={"items": items})
    ingest.run(context)
    validate.run(context)
    assert attributes.run(context).exit_code == 0
    found = table(context, "item")
    assert (found["i1"]["name"], found["i1"]["features"]) == ("Cup", {"colour": "blue"})
    assert (found["i2"]["name"], found["i2"]["features"]) == ("a", {})
    assert attributes.run(context).exit_code == 99

    # What is held out has had a vote: no features of such attributes, in training or in a model that is judged.
    train_settings = {"features": {"items": ["colour"]}, "holdout_days": 1}
    there = context_at(spark, lake_root, tmp_path / "log", attributes={"items": items}, train=train_settings)
    leak = r"`attributes\.items\.source: events`.*from files"
    with pytest.raises(ConfigError, match=rf"{leak}.*train\.holdout_days"):
        train.run(there)
    columns = Vocabulary(("colour",), (("blue",),), ((),))
    judged = Row(features=json.dumps({"user": None, "item": columns.to_json()}))
    assert kept_features(there, judged, "user") is None
    with pytest.raises(ConfigError, match=rf"{leak}.*unjudged"):
        kept_features(there, judged, "item")
    with caplog.at_level(logging.INFO, logger="factorlake"):
        everything = learn_features(there, read_attributes(there), holds_out=False)
    assert "side=item attribute=colour kind=category (values: 1)" in caplog.text
    assert everything is not None and everything.items is not None
    assert everything.items.vocabulary == columns
    # The same attributes from files are no longer those of the events.
    file = write_csv(tmp_path / "items.csv", "i1,Cup,blue", "i2,a,", header="id,name,colour")
    from_files = {"input": str(file), "columns": {"name": "name"}}
    assert attributes.run(context_at(spark, lake_root, "none", attributes={"items": from_files})).exit_code == 0
    assert table(context, "item")["i1"]["features"] == {"colour": "blue"}
    features = learn_features(there, read_attributes(there), holds_out=True)
    assert features is not None and features.items is not None

    dated = {**items, "columns": {"available_from": "event_time"}}
    with pytest.raises(ConfigError, match="cannot come from events"):
        attributes.run(context_at(spark, lake_root, tmp_path / "log", attributes={"items": dated}))


def test_of_several_rows_of_an_id_the_last_by_file_and_position_stays(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    header = "id;name"
    write_csv(tmp_path / "items" / "day2.csv", "i1;Third", "i1;Fourth", "i2;Café", header=header)
    write_csv(tmp_path / "items" / "day1.csv", "i1;Second", "i3;Alone", header=header)
    source = {"input": str(tmp_path / "items"), "columns": {"name": "name"}, "delimiter": ";"}
    log = {"encoding": "latin-1"}
    for encoding, cafe in (("utf-8", "Café"), (None, "CafÃ©")):
        items = {**source, "encoding": encoding}
        context = context_at(spark, lake_root, "none", attributes={"items": items}, ingest=log)
        assert attributes.run(context).exit_code == 0
        names = {key: row["name"] for key, row in table(context, "item").items()}
        assert names == {"i1": "Fourth", "i2": cafe, "i3": "Alone"}
