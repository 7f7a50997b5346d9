"""The run report: reads what the stages left in the tables, writes one HTML page and its figures as JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.config.settings import Settings
from factorlake.errors import DONE, ConfigError
from factorlake.models.spectrum import Spectrum
from factorlake.pipelines.batches import GATE
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.demo import planted_share
from factorlake.pipelines.models import seen_pairs
from factorlake.pipelines.sgd_baselines import VALIDATION
from factorlake.quality.metrics import COUNTS
from factorlake.reporting.content import (
    Batch,
    CalibrationCurve,
    Expectation,
    HistoryCheck,
    MetricRow,
    Publication,
    RunReport,
    Stage,
    Suggestion,
    TraceRow,
    UserSample,
    records,
    skew_of,
)
from factorlake.reporting.html import render_html
from factorlake.reporting.summary import render_summary, to_json
from factorlake.spark.session import open_session
from factorlake.tables import delta_io, registry
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS

# Of this many batches, the latest, the expectations are told; the records of all are accounted for.
EXPECTED_BATCHES = 60
SHOWN_HISTORY = 8
SHOWN_SUGGESTIONS = 5
SCORES = 20_000


def write_report(context: Context, result: JobResult, stages: list[Stage]) -> tuple[str | None, str]:
    """Write report.html and metrics.json of a run and return (path of the page, summary for the terminal).

    Where the root is no disk the page is not written: the path is None and the summary still tells all.
    """
    return save_report(context, build_report(context, result, stages))


def save_report(context: Context, report: RunReport) -> tuple[str | None, str]:
    """Write a report's page and figures; return what `write_report` does."""
    path = None
    if context.lake.is_local:
        folder = Path(context.lake.reports())
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / f"{context.run_id}.html")
        Path(path).write_text(render_html(report), encoding="utf-8")
        (folder / f"{context.run_id}.json").write_text(to_json(report), encoding="utf-8")
    width = min(120, max(80, os.get_terminal_size().columns)) if os.isatty(1) else 100
    return path, render_summary(report, width, os.isatty(1), path)


def build_report(context: Context, result: JobResult, stages: list[Stage]) -> RunReport:
    """Gather a report from the tables. Parts whose tables are not there yet stay empty."""
    spark, lake, settings = context.spark, context.lake, context.settings
    version = result.model_version
    row = registry.model(spark, lake, version) if version else None
    scored = row is not None and row["state"] in ("scored", "published", "refused")
    lists = delta_io.read(spark, lake.candidate(version, "lists")) if scored and version else None
    batches, history, expectations = _validation(context)
    publication = registry.publication(spark, lake, settings.publish.slot)
    judged = _latest_evaluation(context, version)
    return RunReport(
        run_id=context.run_id,
        recommender=settings.recommender,
        started=datetime.now(UTC),
        state={0: "done", 99: "nothing", 3: "refused"}.get(result.exit_code, "failed"),
        reason=result.reason,
        model_version=version,
        users=row["n_users"] if row else None,
        items=row["n_items"] if row else None,
        pairs=row["n_observed"] if row else None,
        stages=tuple(stages),
        settings=settings.model_dump(by_alias=True, mode="json"),
        batches=batches,
        history=history,
        expectations=expectations,
        trace=_of_model(
            context, "training_trace", version, TraceRow, ["epoch", F.col("state") == "final", F.desc("side")]
        ),
        spectrum=_spectrum(row),
        evaluation=tuple(row for row in judged if row.slice is None and row.split != VALIDATION),
        slices=tuple(row for row in judged if row.slice is not None),
        validation=tuple(row for row in judged if row.split == VALIDATION),
        calibration=_calibration(context, version),
        samples=_samples(context, row, lists) if row and lists is not None else (),
        planted=planted_share(context, row, lists) if settings.demo and row and lists is not None else None,
        skews=_skews(context, row),
        scores=_scores(lists) if lists is not None else None,
        versions=result.versions,
        publication=_publication(publication, version, result),
    )


def _validation(context: Context) -> tuple[tuple[Batch, ...], tuple[HistoryCheck, ...], tuple[Expectation, ...]]:
    path = context.lake.shared("validation_results")
    if not delta_io.exists(context.spark, path):
        return (), (), ()
    rows = delta_io.read(context.spark, path).where("kind NOT IN ('state', 'rebuild')").orderBy("recorded_at").collect()
    latest: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        # A batch that was refused and accepted later is told as it ended.
        latest.setdefault(row["batch"], {})[row["kind"], row["rule"]] = row
    batches, history, expectations = [], [], []
    late = set(list(latest)[-EXPECTED_BATCHES:])
    for batch, figures in latest.items():
        counts = {rule: int(row["value"]) for (kind, rule), row in figures.items() if kind == "count"}
        gate = figures.get(("gate", GATE))
        detail = json.loads(gate["detail"] or "{}") if gate is not None else {}
        decided = figures["count", "rows"]["recorded_at"]
        batches.append(
            Batch(
                batch=batch,
                input=counts["rows"],
                accepted=counts["accepted"],
                quarantined=counts["quarantined"],
                duplicates=counts["duplicates"],
                superseded=counts["superseded"],
                reasons={
                    rule: int(row["value"])
                    for (kind, rule), row in figures.items()
                    # Written with the decision; one under other rules may have left reasons of its own.
                    if kind == "count" and rule not in COUNTS and row["value"] and row["recorded_at"] == decided
                },
                passed=gate is None or bool(gate["success"]),
                gate_reason=detail.get("reason") or "",
            )
        )
        for (kind, rule), row in figures.items():
            if kind == "history" and batch in late and row["recorded_at"] == decided:
                told = json.loads(row["detail"])
                history.append(HistoryCheck(batch, rule, row["success"], told["action"], told["sentence"]))
        expectations += [
            Expectation(rule, row["success"], row["value"], batch)
            for (kind, rule), row in figures.items()
            if kind == "expectation" and batch in late
        ]
    return tuple(batches), tuple(history), tuple(expectations)


def _spectrum(row: Row | None) -> Spectrum | None:
    # A register without rows of now does not have the column.
    kept = row.asDict().get("spectrum") if row is not None else None
    return Spectrum.from_json(kept) if kept else None


def _of_model(context: Context, table: str, version: str | None, kind: type, order: list[Any]) -> tuple[Any, ...]:
    if version is None:
        return ()
    frame = delta_io.read_or_empty(context.spark, context.lake.own(table), SCHEMAS[table])
    rows = frame.where(F.col("model_version") == version).orderBy(*order).collect()
    return records(kind, (row.asDict() for row in rows))


def _latest_evaluation(context: Context, version: str | None) -> tuple[MetricRow, ...]:
    """The latest figure of each metric of everyone and of each slice; differences stay in the table."""
    rows = _of_model(context, "evaluation", version, MetricRow, ["recorded_at"])
    latest = {(row.split, row.name, row.metric, row.slice): row for row in rows}
    return tuple(row for row in latest.values() if not row.name.startswith("difference"))


def _calibration(context: Context, version: str | None) -> CalibrationCurve | None:
    """The map that a model's probabilities come from: the one found last."""
    found = _of_model(context, "calibrations", version, CalibrationCurve, ["recorded_at"])
    if not found:
        return None
    return replace(found[-1], scores=tuple(found[-1].scores), probabilities=tuple(found[-1].probabilities))


def _names(context: Context, frame: DataFrame) -> DataFrame:
    attributes = delta_io.read_or_empty(
        context.spark, context.lake.shared("item_attributes"), SCHEMAS["item_attributes"]
    )
    named = frame.join(attributes.select(F.col("id").alias("item_id"), "name"), on="item_id", how="left")
    return named.withColumn("name", F.coalesce("name", "item_id"))


def _samples(context: Context, row: Row, lists: DataFrame) -> tuple[UserSample, ...]:
    """A few users, chosen by hash, as what they had and what they are recommended; their ids stay behind."""
    n = context.settings.report_users
    chosen = (
        lists.where("source = 'model'")
        .select("user_id")
        .distinct()
        .orderBy(F.xxhash64(F.lit("report"), "user_id"))
        .limit(n)
    )
    listed = _names(context, lists.join(chosen, on="user_id").where(F.col("rank") <= SHOWN_SUGGESTIONS))
    had = _names(context, seen_pairs(context, row["interactions_version"]).join(chosen, on="user_id").distinct())
    suggestions: dict[str, list[Row]] = {}
    for item in listed.orderBy("rank").collect():
        suggestions.setdefault(item["user_id"], []).append(item)
    history: dict[str, list[str]] = {}
    for item in had.orderBy("name").collect():
        history.setdefault(item["user_id"], []).append(item["name"])
    return tuple(
        UserSample(
            history=tuple(history.get(user, [])[:SHOWN_HISTORY]),
            suggestions=tuple(Suggestion(r["name"], float(r["score"]), r["source"]) for r in suggestions[user]),
            history_total=len(history.get(user, [])),
        )
        for user in sorted(suggestions)
    )


def _skews(context: Context, row: Row | None) -> tuple[Any, ...]:
    if row is None:
        return ()
    factors = delta_io.read(context.spark, context.lake.candidate(row["model_version"], "factors"))
    counts = factors.select("side", "n_observed").toPandas()
    sides = (skew_of(side, counts.loc[counts["side"] == side, "n_observed"].to_numpy()) for side in ("user", "item"))
    return tuple(skew for skew in sides if skew is not None)


def _scores(lists: DataFrame) -> np.ndarray:
    sampled = lists.where("source = 'model'").orderBy(F.xxhash64("user_id", "rank")).limit(SCORES)
    return sampled.select("score").toPandas()["score"].to_numpy()


def _publication(publication: Row | None, version: str | None, result: JobResult) -> Publication | None:
    if publication is None and result.exit_code in (0, 99):
        return None
    live = publication is not None and publication["model_version"] == version
    changed = [value for key, value in result.counts.items() if key.endswith("recommendations_changed")]
    unchanged = [value for key, value in result.counts.items() if key.endswith("recommendations_unchanged")]
    return Publication(
        published=live,
        slot=publication["slot"] if publication is not None else "live",
        reason=result.reason,
        changed=changed[0] if changed else None,
        unchanged=unchanged[0] if unchanged else None,
    )


def show(settings: Settings, as_json: bool) -> int:
    """`factorlake report`: write the report of the model trained last again and print its summary."""
    spark = open_session(settings.spark)
    lake = Lake.at(settings.root, settings.recommender)
    trained = registry.trained_models(spark, lake)
    if not trained:
        raise ConfigError(f"no model has been trained under {lake.root}/{lake.recommender}; run `factorlake run` first")
    version = trained[0]["model_version"]
    context = Context(spark, settings, lake, f"report-{version}", lambda _: None, "conf", lambda: 0)
    path, summary = write_report(context, JobResult(model_version=version), [])
    print_line = json.dumps({"report": path, "model_version": version, "exit_code": DONE})
    sys.stdout.write(f"{print_line}\n" if as_json else f"{summary}\n{print_line}\n")
    return DONE
