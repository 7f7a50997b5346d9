"""A lake with keyed pseudonyms holds no byte of an id, and else what a lake without them holds."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from factorlake.config.loader import load_settings
from factorlake.errors import ConfigError
from factorlake.reporting.masking import masked_settings
from tests.pipelines.demo_lake import DemoRun, run_verb
from tests.pipelines.test_forget import GONE, STAYS, grown_log, scan, settings_of
from tests.reference.contents import lake_contents, read_table

pytestmark = pytest.mark.spark

KEY = "not-a-real-key-0f9d2"
WITH_KEY = f"ingest.pseudonym_key={KEY}"
VERBS = ("ingest", "validate", "attributes")


def pseudonym(user: str) -> str:
    return hmac.new(KEY.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def take(spark: SparkSession, settings: Any, *verbs: str) -> list[int]:
    return [run_verb(spark, verb, settings)["exit_code"] for verb in verbs]


def events_of(root: Path) -> list[tuple[Any, ...]]:
    columns = ("user_id", "item_id", "event_type", "value", "event_time")
    return [tuple(row[name] for name in columns) for row in read_table(root / "interactions").to_pylist()]


def test_a_lake_under_a_key(spark: SparkSession, demo_run: DemoRun, tmp_path: Path) -> None:
    log = grown_log(demo_run.log, tmp_path / "log")
    plain, keyed = tmp_path / "plain", tmp_path / "keyed"
    settings = settings_of(keyed, log, WITH_KEY)
    assert take(spark, settings_of(plain, log), *VERBS) == [0, 0, 0]
    assert take(spark, settings, *VERBS) == [0, 0, 0]

    # Nothing else changes: each user has one name for another, in events and attributes alike.
    told = [(pseudonym(user), *rest) for user, *rest in events_of(plain)]
    assert sorted(events_of(keyed), key=str) == sorted(told, key=str)
    attributes = {root: read_table(root / "user_attributes").to_pylist() for root in (plain, keyed)}
    of_plain = {pseudonym(row["id"]): (row["segment"], dict(row["features"])) for row in attributes[plain]}
    assert {row["id"]: (row["segment"], dict(row["features"])) for row in attributes[keyed]} == of_plain
    counts = {root: read_table(root / "quarantine").column("reasons").to_pylist() for root in (plain, keyed)}
    assert sorted(map(str, counts[keyed])) == sorted(map(str, counts[plain]))

    # The lake without a key shows that the scan finds what there is: records, torn ones, attributes, file statistics.
    assert {"raw_events", "quarantine", "interactions", "users", "user_attributes"} <= {
        path.split("/")[0] for path in scan(plain, GONE)
    }
    assert scan(keyed, GONE) == scan(keyed, STAYS) == scan(keyed, KEY) == []

    # Again, and with more to take: one user stays one.
    before = lake_contents(keyed)
    assert take(spark, settings, *VERBS) == [99, 99, 99]
    track = (log / "tracks.csv").read_text().splitlines()[9].split(",")[0]
    event = {"listener": GONE, "track": track, "action": "play", "plays": 1, "at": "2025-03-03T23:00:00Z"}
    (log / "events" / "zz-later.jsonl").write_text(json.dumps(event) + "\n")
    n_users = read_table(keyed / "users").num_rows
    # Without its key nothing is added to the lake, nor under another; nor a key to a lake without.
    other_key = settings_of(keyed, log, "ingest.pseudonym_key=another-key-of-no-lake")
    for wrong, verb in (
        (settings_of(keyed, log), "ingest"),
        (settings_of(keyed, log), "attributes"),
        (other_key, "ingest"),
        (settings_of(plain, log, WITH_KEY), "ingest"),
    ):
        line_told = run_verb(spark, verb, wrong)
        assert line_told["exit_code"] == ConfigError.exit_code
        assert "ingest.pseudonym_key" in line_told["reason"]
    assert lake_contents(keyed) == before
    assert take(spark, settings, "ingest", "validate") == [0, 0]
    assert read_table(keyed / "users").num_rows == n_users

    # Who is to be forgotten is named by the id.
    mine = sum(event[0] == pseudonym(GONE) for event in events_of(keyed))
    assert mine == 9
    assert run_verb(spark, "forget", settings, user=GONE)["counts"]["interactions"] == mine
    assert pseudonym(GONE) not in {event[0] for event in events_of(keyed)}
    assert pseudonym(STAYS) in {event[0] for event in events_of(keyed)}


def test_a_table_as_the_log(spark: SparkSession, tmp_path: Path) -> None:
    source = str(tmp_path / "source")
    rows = spark.createDataFrame([("u1", "i1", 1.0), (" u1 ", "i2", 2.0)], "user_id string, item_id string, v double")
    rows.write.format("delta").save(source)
    values = [f"root={tmp_path}/lake", f"input={source}", "events.columns.event_time=null", WITH_KEY]
    settings = load_settings((), values)
    assert take(spark, settings, "ingest", "validate") == [0, 0]
    assert {event[:2] for event in events_of(tmp_path / "lake")} == {(pseudonym("u1"), "i1"), (pseudonym("u1"), "i2")}


def test_the_key_is_shown_nowhere_and_a_short_one_is_refused() -> None:
    settings = load_settings((), [], {"FACTORLAKE__INGEST__PSEUDONYM_KEY": KEY})
    assert settings.ingest.pseudonym_key == KEY
    assert KEY not in str(masked_settings(settings.model_dump(by_alias=True, mode="json")))
    with pytest.raises(ConfigError, match=r"ingest\.pseudonym_key.*at least 16") as refused:
        load_settings((), ["ingest.pseudonym_key=too-short"])
    assert "too-short" not in str(refused.value)
