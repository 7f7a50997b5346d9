"""TEST 2.1 and 2.2: hostile rows of every class and format through ingest and validate, none lost and none twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from factorlake.errors import DataRefusedError
from factorlake.pipelines import ingest, validate
from factorlake.pipelines.context import Context
from tests.faults.generated_rows import fields, generate, printed
from tests.faults.hostile_rows import FORMS, LATEST, REFUSED, TIME_FORMATS, Case, corpus, outcome_table
from tests.pipelines.lakes import context_at
from tests.reference.contents import read_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"
EVENTS = {"columns": {"value": "value"}, "time_formats": TIME_FORMATS, "latest": LATEST}
LENIENT = {"gate": {"max_quarantined_share": 1.0, "history": False}}

CASES = {f"{case.form}/{case.file}": case for case in corpus() if not case.why_not}


def lake_of(spark: SparkSession, root: Path, source: Path) -> Context:
    """A context that leaves unreadable files out and lets any share of refused rows pass."""
    return context_at(spark, str(root), source, events=EVENTS, validate=LENIENT, ingest={"on_unreadable": "skip"})


@dataclass(frozen=True)
class Taken:
    """What a lake holds of some files after ingest and validate, as delta-rs reads it."""

    counts: dict[str, int]
    ledger: dict[str, dict[str, Any]]
    """The last row of each file."""
    raw: dict[str, list[dict[str, Any]]]
    """Records of each file in order."""
    quarantine: dict[tuple[str, int], dict[str, Any]]
    accepted: dict[str, list[dict[str, Any]]]
    """By event id."""

    def verdict(self, record: dict[str, Any]) -> str:
        """What became of a record that only one place of the batch holds."""
        if (record["file"], record["position"]) in self.quarantine:
            return "quarantined"
        return "accepted" if record["event_id"] in self.accepted else "lost"


def take(context: Context, source: Path) -> Taken:
    """Run ingest and validate on all files of ``source``; return what the tables hold then."""
    ingested = ingest.run(context)
    assert ingested.exit_code == 0
    result = validate.run(context)
    assert (result.exit_code, result.details.get("refused", [])) == (0, []), result.reason
    root = Path(context.settings.root)

    def rows(table: str) -> list[dict[str, Any]]:
        found = read_table(root / table).to_pylist() if (root / table).is_dir() else []
        return [
            {**row, "file": str(Path(row["file"].removeprefix("file:")).relative_to(source))} if "file" in row else row
            for row in found
        ]

    raw: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows("raw_events"), key=lambda row: (row["file"], row["position"])):
        raw.setdefault(row["file"], []).append(row)
    accepted: dict[str, list[dict[str, Any]]] = {}
    for row in rows("interactions"):
        accepted.setdefault(row["event_id"], []).append(row)
    return Taken(
        counts={name: result.counts[name] for name in validate.ACCOUNTED},
        ledger={row["file"]: row for row in sorted(rows("ingest_ledger"), key=lambda row: row["recorded_at"])},
        raw=raw,
        quarantine={(row["file"], row["position"]): row for row in rows("quarantine")},
        accepted=accepted,
    )


def assert_accounted(taken: Taken) -> None:
    """Every record is in exactly one place: interactions, quarantine, or beside a copy that is in one of them."""
    records = [record for of_file in taken.raw.values() for record in of_file]
    copies = Counter(record["event_id"] for record in records)
    refused = Counter(row["event_id"] for row in taken.quarantine.values())
    for event_id in copies:
        assert refused[event_id] + len(taken.accepted.get(event_id, [])) == 1
    assert set(taken.accepted) | set(refused) == set(copies)
    assert taken.counts == {
        "rows": len(records),
        "accepted": len(taken.accepted),
        "quarantined": len(taken.quarantine),
        "duplicates": len(records) - len(copies),
        "superseded": 0,
        "replaced": 0,
    }
    assert all(row["reasons"] for row in taken.quarantine.values())


def test_every_class_has_a_case_in_every_format_or_a_reason_why_not() -> None:
    names = Counter(case.name for case in corpus())
    assert len(names) >= 40
    assert set(names.values()) == {len(FORMS)}
    assert len({(case.name, case.form) for case in corpus()}) == len(FORMS) * len(names)


def test_the_page_on_data_quality_states_the_outcome_of_every_case() -> None:
    assert outcome_table() in PAGE.read_text()


@pytest.fixture(scope="module")
def taken(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """The whole corpus through one ingest and one validate, but the files that end a run."""
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "log"
    for name, case in CASES.items():
        if case.outcome != REFUSED:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(case.content)
    return take(lake_of(spark, folder / "lake", source), source)


@pytest.mark.spark
@pytest.mark.faults
def test_the_whole_corpus_is_accounted_for_record_by_record(taken: Taken) -> None:
    expected = [one for case in CASES.values() if case.outcome != REFUSED for one in case.records]
    assert_accounted(taken)
    assert taken.counts["rows"] == len(expected)
    assert taken.counts["duplicates"] == sum(one.is_copy for one in expected)
    assert taken.counts["quarantined"] == sum(bool(one.reasons) for one in expected)
    told = [case for case in CASES.values() if case.outcome != REFUSED]
    assert len(taken.ledger) == len(told)


@pytest.mark.spark
@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome != REFUSED])
def test_a_hostile_file_has_the_outcome_that_the_corpus_states(taken: Taken, name: str) -> None:
    case = CASES[name]
    entry, records = taken.ledger[name], taken.raw.get(name, [])
    assert entry["outcome"] == case.outcome
    assert case.told in (entry["detail"] or "")
    assert len(records) == len(case.records)
    for record, expected in zip(records, case.records, strict=True):
        if expected.raw is not None and case.form == "parquet":
            assert expected.raw in record["raw"]
        elif expected.raw is not None:
            assert record["raw"] == expected.raw
        refused = taken.quarantine.get((name, record["position"]))
        if expected.is_copy:
            assert refused is None
        elif expected.reasons:
            assert refused is not None
            assert (tuple(refused["reasons"]), refused["raw"]) == (expected.reasons, record["raw"])
        else:
            assert refused is None, refused
            (event,) = taken.accepted[record["event_id"]]
            if expected.user is not None:
                assert event["user_id"] == expected.user
            if expected.value is not None:
                assert event["value"] == expected.value
            if expected.time is not None:
                assert event["event_time"] == expected.time


@pytest.mark.spark
@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome == REFUSED])
def test_a_file_that_ends_the_run_is_named_and_nothing_is_taken(spark: SparkSession, tmp_path: Path, name: str) -> None:
    case: Case = CASES[name]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / case.file).write_bytes(case.content)
    with pytest.raises(DataRefusedError, match=case.told) as caught:
        ingest.run(lake_of(spark, tmp_path / "lake", tmp_path / "log"))
    assert caught.value.exit_code == 3
    assert case.file in str(caught.value)
    assert not (tmp_path / "lake" / "raw_events").exists()


N_GENERATED = 250
"""Rows of each format: TEST 2.2 asks for 500 in all."""


@pytest.mark.spark
@pytest.mark.faults
def test_generated_rows_come_back_as_they_were_printed_or_are_refused_for_every_reason(
    spark: SparkSession, tmp_path: Path
) -> None:
    source = tmp_path / "log"
    source.mkdir()
    rows = {form: generate(form, N_GENERATED) for form in FORMS}
    assert sum(map(len, rows.values())) >= 500
    for form in FORMS:
        (source / f"day.{form}").write_bytes(printed(form, rows[form]))
    taken = take(lake_of(spark, tmp_path / "lake", source), source)
    assert_accounted(taken)
    for form in FORMS:
        file, records = f"day.{form}", iter(taken.raw[f"day.{form}"])
        for number, row in enumerate(rows[form]):
            record = next(records)
            refused = taken.quarantine.get((file, record["position"]))
            assert (refused["reasons"] if refused else []) == row.reasons(form), (row, record["raw"])
            if row.corruption == "copy":
                assert next(records)["event_id"] == record["event_id"]
            if refused is None:
                # What was printed is what was read: CSV knows no null, and its empty cell is an empty text.
                sent = fields(form, number, row)
                got = {name: text for name, text in record["fields"] if name != "more"}
                assert got == ({name: text or "" for name, text in sent.items()} if form == "csv" else sent)
                (event,) = taken.accepted[record["event_id"]]
                read = tuple(event[name] for name in ("user_id", "item_id", "value", "event_time"))
                assert read == tuple(cell.read for cell in row.cells)
        assert next(records, None) is None
