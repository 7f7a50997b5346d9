"""Our row verdicts and Great Expectations' counts, rule by rule; and what happens when it is not there."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import EventSettings, RowRule, ValidateSettings
from factorlake.quality.expectations import DID_NOT_RUN, Finding, run_suite
from factorlake.quality.rules import judge_rows

pytestmark = pytest.mark.spark

FRAMES, ROWS = 20, 150
EVENTS = EventSettings.model_validate(
    {"columns": {"user_id": "user", "item_id": "item", "event_type": "kind", "value": "value"}}
)
# What both know: our rule, and the expectation that says the same of a column of accepted events.
SHARED: list[tuple[dict[str, object], str, dict[str, object]]] = [
    ({"type": "required", "column": "user_id"}, "expect_column_values_to_not_be_null", {}),
    ({"type": "required", "column": "event_type"}, "expect_column_values_to_not_be_null", {}),
    (
        {"type": "range", "column": "value", "min": 1, "max": 5},
        "expect_column_values_to_be_between",
        {"min_value": 1, "max_value": 5},
    ),
    (
        {"type": "range", "column": "value", "above": 0},
        "expect_column_values_to_be_between",
        {"min_value": 0, "strict_min": True},
    ),
    (
        {"type": "one_of", "column": "event_type", "values": ["play", "like"]},
        "expect_column_values_to_be_in_set",
        {"value_set": ["play", "like"]},
    ),
    (
        {"type": "not_one_of", "column": "user_id", "values": ["u1", "u2"]},
        "expect_column_values_to_not_be_in_set",
        {"value_set": ["u1", "u2"]},
    ),
    (
        {"type": "matches", "column": "item_id", "pattern": "^[a-z]+[0-9]+$"},
        "expect_column_values_to_match_regex",
        {"regex": "^[a-z]+[0-9]+$"},
    ),
    (
        {"type": "not_matches", "column": "item_id", "pattern": "(?i)test"},
        "expect_column_values_to_not_match_regex",
        {"regex": "(?i)test"},
    ),
    (
        {"type": "max_length", "column": "user_id", "length": 3},
        "expect_column_value_lengths_to_be_between",
        {"max_value": 3},
    ),
]
# A NaN is left out: value_not_finite refuses it, so no suite ever meets one. (To our ranges it is within none, to Great
# Expectations on Spark it is greater than all numbers.)
CHOICES: dict[str, list[str | None]] = {
    "user": ["u1", "u2", "u3", "u17", "u1234", "ü", "", None, " u5 ", "null"],
    "item": ["i1", "song22", "I3", "9", "aTEST", "test1", "", None, "i 4", "ï7"],
    "kind": ["play", "like", "skip", "Play", "", None],
    "value": ["1", "5", "0.5", "5.0001", "-3", "0", "1e2", "+4", "five", "", None, " 2 ", "-0.0"],
}


def random_frame(seed: int) -> list[dict[str, str | None]]:
    random = np.random.default_rng(seed)
    weights = {name: random.dirichlet(np.ones(len(texts))) for name, texts in CHOICES.items()}
    drawn = {name: random.choice(len(texts), ROWS, p=weights[name]) for name, texts in CHOICES.items()}
    return [{name: CHOICES[name][drawn[name][row]] for name in CHOICES} for row in range(ROWS)]


def test_our_verdicts_and_great_expectations_count_the_same_rows_on_random_frames(spark: SparkSession) -> None:
    rules = [RowRule.model_validate({"name": f"shared_{at}", **told[0]}) for at, told in enumerate(SHARED)]
    raw = [(frame, row, fields, None) for frame in range(FRAMES) for row, fields in enumerate(random_frame(frame))]
    records = spark.createDataFrame(raw, "frame int, row int, fields map<string,string>, defect string")
    judged = judge_rows(records, EVENTS, ValidateSettings(rules=rules)).cache()
    ours = (
        judged.groupBy("frame")
        .agg(*(F.count_if(F.array_contains("reasons", rule.name)).alias(rule.name) for rule in rules))
        .collect()
    )
    counts = {(row["frame"], at): row[rule.name] for row in ours for at, rule in enumerate(rules)}

    # Great Expectations takes seconds a run: the frames stand side by side, each with columns of its own.
    columns = ("user_id", "item_id", "event_type", "value")
    found = sorted(judged.select("frame", "row", *columns).collect(), key=lambda row: (row["row"], row["frame"]))
    wide = [
        tuple(value for of_frame in found[at : at + FRAMES] for value in of_frame[2:])
        for at in range(0, len(found), FRAMES)
    ]
    kinds = {"value": "double"}
    names = [f"{name}_{frame} {kinds.get(name, 'string')}" for frame in range(FRAMES) for name in columns]
    suite = [
        {"type": expectation, "column": f"{ours['column']}_{frame}", **arguments}
        for frame in range(FRAMES)
        for ours, expectation, arguments in SHARED
    ]
    findings = run_suite(spark.createDataFrame(wide, ", ".join(names)), suite)
    judged.unpersist()
    # Results come back grouped by column: they are told apart by type, column, and their order within those.
    expected: dict[str, list[int]] = {}
    for frame in range(FRAMES):
        for at, (rule, expectation, _) in enumerate(SHARED):
            expected.setdefault(f"{expectation}({rule['column']}_{frame})", []).append(counts[frame, at])
    reported: dict[str, list[int | None]] = {}
    for finding in findings:
        assert finding.success is (finding.broken == 0), finding
        reported.setdefault(finding.rule, []).append(finding.broken)
    assert reported == expected
    assert all(any(counts[frame, at] for frame in range(FRAMES)) for at in range(len(SHARED)))


def test_findings_hold_counts_and_no_value_of_a_row(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("canary-4711", 3.0)], "user_id string, value double")
    suite: list[dict[str, Any]] = [
        {"type": "expect_column_values_to_be_in_set", "column": "user_id", "value_set": ["a"]},
        {"type": "expect_table_row_count_to_be_between", "min_value": 2},
    ]
    findings = run_suite(rows, suite)
    assert [(finding.success, finding.broken) for finding in findings] == [(False, 1), (False, None)]
    assert "canary" not in repr(findings)


def test_great_expectations_that_is_not_installed_is_a_finding(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    (finding,) = run_suite(spark.range(1), [{"type": "expect_table_row_count_to_be_between", "min_value": 1}])
    assert finding == Finding(DID_NOT_RUN, None, finding.detail)
    assert "did not run" in str(finding.detail)
