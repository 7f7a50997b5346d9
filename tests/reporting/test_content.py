"""Records check and sum what they are given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factorlake.errors import FactorlakeError
from factorlake.reporting.content import (
    Batch,
    MetricRow,
    RunReport,
    TraceRow,
    beside_baseline,
    records,
    skew_of,
)
from factorlake.reporting.masking import MASK, masked_settings


def test_accounting_that_does_not_add_up_is_never_reported() -> None:
    with pytest.raises(FactorlakeError, match="does not add up: 10 records in, 9 "):
        Batch("b", 10, 5, 3, 1)


def test_batches_are_summed_and_reasons_ordered_by_count() -> None:
    report = RunReport(
        "run",
        "main",
        None,  # type: ignore[arg-type]
        batches=(
            Batch("a", 10, 5, 3, 1, 1, {"x": 1, "y": 3}),
            Batch("b", 20, 10, 10, 0, 0, {"x": 9, "z": 1}),
            Batch("c", 7, 0, 7, 0, 0, {"x": 7}, passed=False),
        ),
    )
    account = report.accounting
    assert (account.input, account.accepted, account.quarantined) == (37, 15, 13)
    assert (account.duplicates, account.superseded, account.held_back) == (1, 1, 7)
    assert list(account.reasons.items()) == [("x", 10), ("y", 3), ("z", 1)]


def test_headline_is_the_ranking_metric_beside_popularity(report: RunReport) -> None:
    headline = report.headline
    assert headline is not None
    assert (headline[0].metric, headline[0].name) == ("ndcg@10", "model")
    assert headline[1] is not None
    assert headline[1].name == "popularity"
    # 0.3312 / 0.1409 = 2.3506
    assert beside_baseline(report) == "2.35 × popularity (0.1409)"


def test_rating_error_is_compared_without_a_factor(report: RunReport) -> None:
    rows = (MetricRow("hash", "model", "rmse", 0.92), MetricRow("hash", "biases", "rmse", 0.944))
    assert beside_baseline(replace(report, evaluation=rows)) == "beside biases 0.9440"
    assert beside_baseline(replace(report, evaluation=rows[:1])) == "–"


def test_records_take_the_columns_they_have_from_table_rows() -> None:
    row = {
        "model_version": "m",
        "epoch": 1,
        "side": "user",
        "state": "before",
        "loss": 2.0,
        "observed_loss": 1.0,
        "regularization_loss": 0.5,
        "metric_name": None,
        "metric": None,
        "seconds": 0.1,
        "plan": "local",
        "solver": "cg",
        "run_id": "r",
    }
    assert records(TraceRow, [row]) == (TraceRow(1, "user", "before", 2.0, 1.0, 0.5, 0.1, None, None, "local", "cg"),)


def test_skew_of_a_worked_example() -> None:
    skew = skew_of("item", np.array([1, 1, 1, 1, 6]))
    assert skew is not None
    assert (skew.rows, skew.observations, skew.median, skew.longest) == (5, 10, 1.0, 6)
    # One row is at least taken as the top 1 %: 6 of 10.
    assert skew.top_share == pytest.approx(0.6)
    assert (skew.curve[0], skew.curve[-1]) == ((1, 6), (5, 1))


def test_skew_of_no_rows_is_nothing_and_of_empty_rows_is_even() -> None:
    assert skew_of("user", np.array([], dtype=np.int64)) is None
    empty = skew_of("user", np.zeros(3, dtype=np.int64))
    assert empty is not None
    assert empty.top_share == 0.0


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "fs.s3a.secret.key",
        "fs.s3a.access.key",
        "apiToken",
        "db_pwd",
        "fs.azure.sas.container",
        "AUTH",
    ],
)
def test_values_under_secret_names_are_masked(name: str) -> None:
    assert masked_settings({"conf": {name: "x"}}) == {"conf": {name: MASK}}


@pytest.mark.parametrize("name", ["event_key", "seed", "tolerance", "author", "disaster", "keep", "max_length"])
def test_plain_names_are_not_mistaken_for_secrets(name: str) -> None:
    assert masked_settings({name: "x"}) == {name: "x"}


def test_logins_and_signatures_inside_urls_are_masked() -> None:
    masked = masked_settings({"a": "jdbc://me:pw@host/db", "b": ["https://h/p?x=1&sig=abc&y=2"]})
    assert masked == {"a": f"jdbc://{MASK}@host/db", "b": [f"https://h/p?x=1&sig={MASK}&y=2"]}


def test_rules_about_users_do_not_tell_which_users() -> None:
    rules = [
        {"name": "banned", "type": "not_one_of", "column": "customer", "values": ["u1"]},
        {"name": "staff", "type": "sql", "condition": "customer not in ('u2')"},
        {"name": "kind", "type": "one_of", "column": "action", "values": ["play"]},
    ]
    masked = masked_settings({"validate": {"rules": rules}, "events": {"columns": {"user_id": "customer"}}})
    shown = masked["validate"]["rules"]
    assert (shown[0]["values"], shown[1]["condition"], shown[2]["values"]) == (MASK, MASK, ["play"])


def test_masking_leaves_the_settings_it_was_given_as_they_are() -> None:
    settings = {"spark": {"conf": {"token": "x"}}}
    masked_settings(settings)
    assert settings == {"spark": {"conf": {"token": "x"}}}


def test_a_deny_list_of_users_is_masked_where_several_columns_may_name_the_user() -> None:
    rule = {"name": "robots", "type": "not_one_of", "column": "uid", "values": ["alice@example.com"]}
    settings = {"events": {"columns": {"user_id": ["uid", "visitor"]}}, "validate": {"rules": [rule]}}
    assert masked_settings(settings)["validate"]["rules"] == [{**rule, "values": MASK}]
