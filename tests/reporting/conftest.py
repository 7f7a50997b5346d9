"""A run report as the embedded demo gives it: every part filled, figures that fit together."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from factorlake.config.settings import Settings
from factorlake.models.spectrum import Spectrum
from factorlake.reporting.content import (
    Batch,
    CalibrationCurve,
    Expectation,
    HistoryCheck,
    MetricRow,
    PlantedShare,
    Publication,
    RunReport,
    Stage,
    Suggestion,
    TraceRow,
    UserSample,
    skew_of,
)

FIRST = ("Velvet", "Paper", "Northern", "Silver", "Quiet", "Amber", "Hollow", "Golden", "Distant", "Crimson")
SECOND = (
    "Harbour",
    "Lanterns",
    "Meridian",
    "Orchard",
    "Signal",
    "Tide",
    "Cathedral",
    "Static",
    "Avenue",
    "Comet",
)
REASONS = {
    "bot": 1_480,
    "missing_user_id": 311,
    "missing_item_id": 204,
    "broken_record": 190,
    "unknown_event_type": 160,
    "impossible_time": 122,
    "value_not_a_number": 41,
    "value_not_finite": 12,
}
PLANTED = "From popularity (0 %) to a list made from the planted taste (100 %), by NDCG@10."
BETTER = "better than the published model by 0.0057 NDCG@10 (−0.0011 to 0.0125)"


def track(number: int) -> str:
    return f"{FIRST[number % 10]} {SECOND[number // 10 % 10]}"


def trace(epochs: int) -> tuple[TraceRow, ...]:
    rows = []
    for half in range(2 * epochs):
        loss = 21_400 + 19_000 * 0.45**half
        side = "user" if half % 2 == 0 else "item"
        metric = 0.34 - 0.2 * 0.5 ** (half // 2 + 1) if side == "item" else None
        seconds = 0.031 + 0.02 * (half == 0)
        name = "ndcg@10" if metric else None
        parts = (loss, 0.7 * loss, 0.1 * loss, seconds)
        rows.append(TraceRow(half // 2 + 1, side, "before", *parts, name, metric, "broadcast", "auto"))
    return (
        *rows,
        TraceRow(epochs, "user", "final", 21_380.5, 14_900.0, 2_140.0, 0.024, None, None, "broadcast", "exact"),
    )


def evaluation() -> tuple[MetricRow, ...]:
    figures = {
        "ndcg@10": (0.3312, 0.1409, 0.3255),
        "recall@10": (0.3020, 0.1310, 0.2994),
        "precision@10": (0.1804, 0.0801, 0.1790),
        "map@10": (0.2011, 0.0702, 0.1968),
        "mrr@10": (0.4420, 0.2215, 0.4391),
        "hit@10": (0.7719, 0.5012, 0.7702),
    }
    rows = []
    for metric, values in figures.items():
        for name, value in zip(("model", "popularity", "live"), values, strict=True):
            rows.append(MetricRow("time", name, metric, value, value - 0.014, value + 0.014, 948))
    return (
        *rows,
        MetricRow("time", "model", "coverage@10", 0.842, None, None, 948),
        MetricRow("time", "popularity", "coverage@10", 0.052, None, None, 948),
        MetricRow("time", "neighbours", "ndcg@10", 0.2713, 0.2613, 0.2813, 948),
        MetricRow("time", "pyspark_ml", "ndcg@10", 0.3001, 0.2901, 0.3101, 948),
        MetricRow("time", "last_year", "ndcg@10", 0.2222, 0.2122, 0.2322, 948),
        MetricRow("time", "model", "ece_of_scores@10", 0.2504, None, None, 948),
        MetricRow("time", "model", "ece@10", 0.0107, None, None, 948),
        MetricRow("time", "model", "brier@10", 0.1203, 0.1103, 0.1303, 948),
    )


def slices() -> tuple[MetricRow, ...]:
    parts = ["segment=north", "segment=süd", *(f"activity={decile}" for decile in (10, 2, 1))]
    rows = []
    for at, part in enumerate(parts):
        for name, value in (("model", 0.3 + 0.01 * at), ("popularity", 0.1 + 0.01 * at), ("last_year", 0.2)):
            n = 100 + at
            rows.append(MetricRow("time", name, "recall@10", 0.9, 0.8, 1.0, n, part))
            rows.append(MetricRow("time", name, "ndcg@10", round(value, 4), value - 0.05, value + 0.05, n, part))
    return (
        *rows,
        MetricRow("time", "model", "recall@10", 0.4444, 0.4, 0.5, 31, "category=rock"),
        MetricRow("time", "popularity", "ndcg@10", 0.0512, 0.04, 0.06, 17, "cold"),
    )


@pytest.fixture
def report() -> RunReport:
    return make_report()


def make_report() -> RunReport:
    generator = np.random.default_rng(20)
    users = tuple(
        UserSample(
            history=tuple(track(7 * user + 3 * at) for at in range(6)),
            suggestions=tuple(Suggestion(track(11 * user + 13 * at + 5), 0.94 - 0.05 * at) for at in range(10)),
            history_total=41 + user,
        )
        for user in range(5)
    )
    return RunReport(
        run_id="run-20261121T040902-5be01c",
        recommender="main",
        started=datetime(2026, 11, 21, 4, 9, 2, tzinfo=UTC),
        model_version="20250605T235944-6f2a91c0",
        users=1000,
        items=500,
        pairs=38_114,
        stages=(
            Stage("ingest", 8.31),
            Stage("validate", 11.92),
            Stage("attributes", 3.4),
            Stage("train", 6.21),
            Stage("evaluate", 4.02),
            Stage("recommend", 2.77),
            Stage("publish", 5.13),
        ),
        settings=Settings(root=".demo/lake").model_dump(mode="json", by_alias=True),
        batches=(Batch("b-4f0c1d22", 56_120, 52_804, 2_506, 810, 0, REASONS),),
        history=(
            HistoryCheck("b-4f0c1d22", "duplicates", True, "warn", "duplicates: share of duplicates 1.44%"),
            HistoryCheck("b-4f0c1d22", "late", False, "warn", "late: share of events more than a day old 9.10%"),
            HistoryCheck("b-4f0c1d22", "volume", False, "refuse", "volume: records without duplicates 12"),
        ),
        expectations=(
            Expectation("expect_column_values_to_not_be_null(user_id)", True, 0),
            Expectation("expect_column_values_to_be_between(value)", True, 0),
            Expectation("expect_column_distinct_values_to_be_in_set(event_type)", False, 17),
            Expectation("expect_table_row_count_to_be_between", None),
        ),
        trace=trace(8),
        spectrum=Spectrum((41.5, 30.25, 8.5, 2.0), 3.1, (0.1, 0.2, 0.5, 0.9, 2.5), (0.0, 0.3, 0.7, 1.1, 4.75)),
        evaluation=evaluation(),
        slices=slices(),
        calibration=CalibrationCurve("time", (-0.1, 0.4, 1.2), (0.01, 0.05, 0.7), 9480),
        samples=users,
        planted=PlantedShare(0.687, PLANTED),
        skews=tuple(
            skew
            for side, size in (("user", 1000), ("item", 500))
            if (skew := skew_of(side, np.ceil(generator.lognormal(3.2, 0.9, size)).astype(np.int64)))
        ),
        scores=generator.normal(0.62, 0.17, 10_000).astype(np.float32),
        versions={"interactions": 1, "raw_events": 1, "recommendations": 1, "user_factors": 1},
        publication=Publication(True, "live", BETTER, 412, 588),
    )
