"""Users who are forgotten leave no byte behind after the next vacuum, and nobody else's rows change."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from factorlake.errors import ConfigError
from factorlake.pipelines import forget, ingest, validate
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.faults.dying import Killed, die_after
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.pipelines.lakes import context_at, events, write_csv
from tests.reference.contents import lake_contents, read_table, rows_of, tables_of

pytestmark = pytest.mark.spark

Result = TypeVar("Result")
GONE, STAYS = "canary-7f3a91", "keeper-55d0c2"
OTHER = ("train.rank=2", "train.epochs=1")
BROKEN = '{"listener": "%s", "track": '
# Written for the run and not for what it is about.
REGISTERS = {"runs", "erasures", "ingest_ledger", "main/publications", "main/models"}


def scan(folder: Path, text: str) -> list[str]:
    """Return every file under a folder that holds the text: in its name, its bytes or, of Parquet, any value or
    statistic of any column."""
    found = []
    for path in sorted(folder.rglob("*")):
        hit = text in path.name
        if path.is_file():
            hit |= text.encode() in path.read_bytes()
            if path.suffix == ".parquet":
                parquet = pq.ParquetFile(path)
                hit |= text in str(parquet.read().to_pylist())
                groups = [parquet.metadata.row_group(n) for n in range(parquet.metadata.num_row_groups)]
                columns = [group.column(n) for group in groups for n in range(group.num_columns)]
                hit |= any(text in str(column.statistics.to_dict()) for column in columns if column.statistics)
        if hit:
            found.append(str(path.relative_to(folder)))
    return found


def rows_of_others(root: Path) -> dict[str, Counter[str]]:
    """Return the rows of every table but the registers', without those that name the user."""
    return {
        name: Counter(row for row in rows_of(path) if GONE not in row)
        for name, path in tables_of(root).items()
        if name not in REGISTERS
    }


def grown_log(log: Path, folder: Path) -> Path:
    """Return a copy of a demo log with a file more: of two users alike, each with good records, one without a time and
    one that is torn. Both have attributes."""
    copy = Path(shutil.copytree(log, folder))
    people = (copy / "listeners.csv").read_text().splitlines()
    last = people[-1].split(",", 1)[1]
    tracks = [row.split(",", 1)[0] for row in (copy / "tracks.csv").read_text().splitlines()[1:9]]
    (copy / "listeners.csv").write_text("\n".join([*people, f"{GONE},{last}", f"{STAYS},{last}"]) + "\n")
    lines = []
    for user in (GONE, STAYS):
        for n, track in enumerate(tracks):
            event = {
                "listener": user,
                "track": track,
                "action": "play",
                "plays": n + 1,
                "at": f"2025-03-03T1{n}:00:00Z",
            }
            lines.append(json.dumps(event))
        lines += [BROKEN % user, json.dumps({**event, "at": "no time"})]
    (copy / "events" / "zz-planted.jsonl").write_text("\n".join(lines) + "\n")
    return copy


def settings_of(root: Path, log: Path, *more: str) -> Any:
    return demo_settings(root, log, "demo=null", "validate.gate.history=false", *more)


@pytest.fixture(scope="module")
def planted(spark: SparkSession, demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(lake, log): the demo's lake after one more publication, with two users planted. Work on a copy."""
    folder = tmp_path_factory.mktemp("planted")
    log = grown_log(demo_run.log, folder / "log")
    root = Path(shutil.copytree(demo_run.root, folder / "lake"))
    line = run_verb(spark, "run", settings_of(root, log, "publish.gate=false", "validate.expectations=null", *OTHER))
    assert line["exit_code"] == 0, line["reason"]
    return root, log


@pytest.fixture
def lake(planted: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(planted[0], tmp_path / "lake"))


def test_who_is_forgotten_leaves_no_byte_and_nobody_else_loses_a_row(
    spark: SparkSession, planted: tuple[Path, Path], lake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, before = planted[1], rows_of_others(lake)
    settings = settings_of(lake, log)
    held = {path.split("/_delta_log")[0].rsplit("/", 1)[0] for path in scan(lake, GONE)}
    assert {"raw_events", "quarantine", "interactions", "users", "user_attributes"} <= held
    assert {"main/user_factors", "main/recommendations"} <= held
    published = sorted(read_table(lake / "main" / "publications").to_pylist(), key=lambda row: row["published_at"])
    index = max(row["index"] for row in read_table(lake / "users").to_pylist())
    with caplog.at_level(logging.DEBUG, "factorlake"):
        line = run_verb(spark, "forget", settings, user=GONE)
    assert line["exit_code"] == 0, line["reason"]
    assert line["counts"]["raw_events"] == 10
    assert line["counts"]["quarantine"] == 2
    assert line["counts"]["interactions"] == 8
    assert rows_of_others(lake) == before
    assert not [name for name, path in tables_of(lake).items() if GONE in str(rows_of(path))]

    again = run_verb(spark, "forget", settings, user=GONE)
    assert again["exit_code"] == 99
    for to in (published[0]["run_id"], published[0]["model_version"]):
        refused = run_verb(spark, "rollback", settings, to=to)
        assert (refused["exit_code"], f"publication {published[0]['run_id']}" in refused["reason"]) == (2, True), (
            refused
        )
        assert "was dropped when users were forgotten" in refused["reason"]
    assert run_verb(spark, "rollback", settings)["exit_code"] == 2

    maintained = run_verb(spark, "maintain", settings_of(lake, log, "maintain.keep_days=0"), force=True)
    assert maintained["exit_code"] == 0, maintained["reason"]
    assert scan(lake, GONE) == []
    assert scan(lake, STAYS) != []
    assert rows_of_others(lake) == before
    assert GONE not in caplog.text + str(line) + str(again)
    requests = [row for row in read_table(lake / "erasures").to_pylist() if row["run_id"] == line["run_id"]]
    assert [(row["state"], row["users"]) for row in sorted(requests, key=lambda row: row["recorded_at"])] == [
        ("started", 1), ("done", 1)
    ]  # fmt: skip

    # The file with the user is not taken again, nothing is published anew, and the same user later is a new one.
    mended = Path(shutil.copytree(log, lake.parent / "log"))
    people = (mended / "listeners.csv").read_text().splitlines()
    (mended / "listeners.csv").write_text("\n".join(row for row in people if GONE not in row) + "\n")
    night = run_verb(
        spark, "run", settings_of(lake, log, f"attributes.users.input={mended}/listeners.csv"), last="validate"
    )
    assert night["exit_code"] == 99, night["reason"]
    assert scan(lake, GONE) == []
    (mended / "events" / "zzz.jsonl").write_text(
        json.dumps({"listener": GONE, "track": "T1", "action": "play", "plays": 1, "at": "2025-03-03T10:00:00Z"}) + "\n"
    )
    back = run_verb(spark, "run", settings_of(lake, mended), last="validate")
    assert back["exit_code"] == 0, back["reason"]
    (row,) = [row for row in read_table(lake / "users").to_pylist() if row["id"] == GONE]
    assert row["index"] == index + 1


def die_until_done(monkeypatch: pytest.MonkeyPatch, forget: Callable[[], Result]) -> Result:
    """Forget, ended right after the first of its commits, then after the second of what is left, and so on."""
    for n_commits in range(1, 100):
        with monkeypatch.context() as patch:
            dying = die_after(n_commits, lambda make, *arguments: make(*arguments))
            for name in ("_write", "_change"):
                patch.setattr(delta_io, name, partial(dying, getattr(delta_io, name)))
            try:
                result = forget()
            except Killed:
                continue
            assert n_commits > 4, "forgetting makes more commits than that"
            return result
    raise AssertionError("it never ends")


def contents_but_registers(root: Path) -> dict[str, str]:
    return {name: told for name, told in lake_contents(root).items() if name not in ("runs", "erasures")}


@pytest.mark.soak
def test_a_log_forgotten_from_a_commit_further_each_time_is_as_one_forgotten_at_once(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, clean, dying = tmp_path / "log", tmp_path / "clean", tmp_path / "dying"
    write_csv(log / "a.csv", *events(1, 2, user=GONE), *events(3, 4, 5), f"{GONE}1,i9,no number,2024-01-01T00:00:00Z")
    context = context_at(spark, str(clean), log)
    assert ingest.run(context).exit_code == validate.run(context).exit_code == 0
    last = max(row["index"] for row in read_table(clean / "users").to_pylist())
    shutil.copytree(clean, dying)
    (tmp_path / "ids").write_text(f"{GONE}1\n\n{GONE}2\r\n")

    once = forget.run(context, users_file=str(tmp_path / "ids"))
    assert once.counts == {"asked": 2, "quarantine": 1, "raw_events": 3, "interactions": 2, "users": 2}
    context = context_at(spark, str(dying), log)
    assert die_until_done(monkeypatch, lambda: forget.run(context, users_file=str(tmp_path / "ids"))).exit_code == 0
    assert contents_but_registers(dying) == contents_but_registers(clean)
    assert forget.run(context, users_file=str(tmp_path / "ids")).exit_code == 99
    # What was taken is not taken again; an index is given once.
    assert ingest.run(context).exit_code == validate.run(context).exit_code == 99
    write_csv(log / "b.csv", *events(6, user=GONE))
    assert ingest.run(context).exit_code == validate.run(context).exit_code == 0
    assert max(row["index"] for row in read_table(dying / "users").to_pylist()) == last + 1
    assert [row["records"] for row in read_table(dying / "ingest_ledger").to_pylist() if row["records"]].count(3) == 1


def test_a_batch_that_waits_is_accounted_for_after_some_of_its_users_are_forgotten(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_csv(tmp_path / "log" / "a.csv", *events(1, user=GONE), *events(2, 3))
    context = context_at(spark, str(tmp_path / "lake"), tmp_path / "log")
    ingest.run(context)
    assert forget.run(context, user=f" {GONE}1 ").counts["raw_events"] == 1
    result = validate.run(context)
    assert (result.exit_code, result.counts["rows"], result.counts["accepted"]) == (0, 2, 2)


@pytest.mark.parametrize(("user", "text"), [(None, None), ("", None), (" ", "\n \n"), (None, "\xff")])
def test_a_request_that_names_nobody_is_refused(tmp_path: Path, user: str | None, text: str | None) -> None:
    if text is not None:
        (tmp_path / "ids").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="--user"):
        forget.read_ids(user, None if text is None else str(tmp_path / "ids"))


@pytest.mark.soak
def test_forgetting_that_dies_a_commit_later_each_time_ends_as_one_that_never_died(
    spark: SparkSession, planted: tuple[Path, Path], lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = planted[1]
    clean = Path(shutil.copytree(lake, tmp_path / "clean"))
    assert run_verb(spark, "forget", settings_of(clean, log), user=GONE)["exit_code"] == 0
    line = die_until_done(monkeypatch, lambda: run_verb(spark, "forget", settings_of(lake, log), user=GONE))
    assert line["exit_code"] == 0, line["reason"]
    assert contents_but_registers(lake) == contents_but_registers(clean)
    assert run_verb(spark, "rollback", settings_of(lake, log))["exit_code"] == 2
    maintained = run_verb(spark, "maintain", settings_of(lake, log, "maintain.keep_days=0"), force=True)
    assert maintained["exit_code"] == 0
    assert scan(lake, GONE) == []


def test_no_table_that_names_users_notes_bounds_of_that_column_in_its_log() -> None:
    of_persons = [schema for schema in SCHEMAS.values() if schema.names_user is not None]
    assert len(of_persons) > 8
    for schema in of_persons:
        assert schema.names_user in schema.fields.names
        assert schema.skipped_by, schema.name
        assert schema.names_user not in schema.skipped_by, schema.name
