"""The latest row of a register holds, also where the clock was put back after an earlier one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import SparkSession

from factorlake.tables import registry
from factorlake.tables.names import Lake

pytestmark = pytest.mark.spark


def test_a_state_recorded_after_the_clock_was_put_back_is_the_latest(
    spark: SparkSession, lake_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.at(lake_root, "main")
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    clock = iter([noon, noon - timedelta(days=1), noon + timedelta(hours=1)])
    monkeypatch.setattr(registry, "now", lambda: next(clock))
    for state in ("trained", "evaluated", "scored"):
        registry.record_model(spark, lake, {"model_version": "one", "state": state}, "run")
        row = registry.model(spark, lake, "one")
        assert row is not None and row["state"] == state
    assert row is not None and row["recorded_at"] == noon + timedelta(hours=1)
