"""Rollback: what was live before is live again row for row, stays so, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from factorlake.config.settings import Settings
from factorlake.pipelines import history
from factorlake.tables import delta_io, registry
from factorlake.tables.names import PUBLISHED_TABLES, Lake
from tests.faults.dying import Killed, die_after
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.reference.contents import published_bytes, read_table, rows_of

pytestmark = pytest.mark.spark

# Another model and other lists, so that every published table changes.
OTHER = ("train.rank=3", "recommend.k=5")


@pytest.fixture(scope="module")
def replaced(spark: SparkSession, demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake in which another model has taken the demo model's place. Work on a copy."""
    root = Path(shutil.copytree(demo_run.root, tmp_path_factory.mktemp("rollback") / "lake"))
    settings = demo_settings(root, demo_run.log, *OTHER)
    assert [run_verb(spark, verb, settings)["exit_code"] for verb in ("train", "recommend")] == [0, 0]
    assert run_verb(spark, "publish", settings, force=True)["exit_code"] == 0
    return root


@pytest.fixture
def lake(replaced: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(replaced, tmp_path / "lake"))


def published_rows(root: Path) -> dict[str, list[str]]:
    return {table: rows_of(root / "main" / table) for table in PUBLISHED_TABLES}


def table_bytes(folder: Path) -> dict[str, bytes]:
    """Return every byte of the published tables in a slot's folder, log and all."""
    files = [path for table in PUBLISHED_TABLES for path in (folder / table).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_rollback_brings_back_every_row_and_the_nightly_run_leaves_it_so(
    spark: SparkSession, demo_run: DemoRun, lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = demo_settings(lake, demo_run.log, *OTHER)
    first, first_rows = demo_run.line, published_rows(demo_run.root)
    other_rows, other = published_rows(lake), read_table(lake / "main" / "user_factors")["model_version"][0].as_py()
    assert all(other_rows[table] != first_rows[table] for table in PUBLISHED_TABLES)
    before = published_bytes(lake)

    line = run_verb(spark, "rollback", settings)
    assert (line["exit_code"], line["model_version"]) == (0, first["model_version"]), line["reason"]
    assert first["run_id"] in line["reason"]
    assert published_rows(lake) == first_rows
    now = published_bytes(lake)
    assert {name: now[name][0] - before[name][0] for name in now} == dict.fromkeys(now, 1)
    for table in PUBLISHED_TABLES:
        found = DeltaTable(str(lake / "main" / table))
        assert (found.protocol().min_reader_version, found.version()) == (1, line["versions"][table])

    again = run_verb(spark, "rollback", settings)
    assert (again["exit_code"], again["versions"]) == (99, line["versions"])
    named = run_verb(spark, "rollback", settings, to=first["run_id"])
    assert (named["exit_code"], named["versions"]) == (99, line["versions"])
    # The first judges the model that was taken back beside what is live; the second has nothing to do.
    nights = [run_verb(spark, "run", settings, first="evaluate") for _ in range(2)]
    assert [night["exit_code"] for night in nights] == [0, 99]
    assert f"model {other} was live before {first['model_version']} took its place" in nights[1]["reason"]
    assert published_bytes(lake) == now

    forth = run_verb(spark, "rollback", settings, to=other)
    assert (forth["exit_code"], forth["model_version"]) == (0, other)
    assert published_rows(lake) == other_rows

    # The session is that of all tests: what the command would open is what is open.
    assert history.show(settings, as_json=False) == 0
    *lines, told = capsys.readouterr().out.splitlines()
    shown = json.loads(told)["publications"]
    assert [(entry["kind"], entry["model_version"]) for entry in shown] == [
        ("rollback", other), ("rollback", first["model_version"]),
        ("forced", other), ("publish", first["model_version"]),
    ]  # fmt: skip
    runs = [entry["publication"] for entry in shown]
    assert [entry["restores"] for entry in shown] == [runs[2], runs[3], None, None]
    assert (runs[1], runs[3]) == (line["run_id"], first["run_id"])
    assert shown[1]["versions"] == line["versions"]
    assert lines[0] == "slot live"
    assert all(entry["publication"] in text for entry, text in zip(shown, lines[1:], strict=True))

    # Two sets of rows were ever live, the newest publication of each keeps its versions.
    kept = [registry.kept_publications(spark, Lake.at(str(lake), "main"), "live", n) for n in (1, 5)]
    assert [[row["run_id"] for row in rows] for rows in kept] == [runs[:2], runs[:2]]


def test_a_rollback_that_dies_after_each_of_its_commits_ends_right(
    spark: SparkSession, demo_run: DemoRun, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = demo_settings(lake, demo_run.log)
    before = published_bytes(lake)
    for n_moved in (1, 2, 3, 4):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(delta_io, "_write", die_after(1, delta_io._write))
            run_verb(spark, "rollback", settings)
        now = published_bytes(lake)
        assert sum(now[name][0] - before[name][0] for name in now) == n_moved
    assert published_rows(lake) == published_rows(demo_run.root)
    done = published_bytes(lake)
    assert run_verb(spark, "rollback", settings)["exit_code"] == 99
    assert published_bytes(lake) == done


def test_what_cannot_be_gone_back_to_is_told_before_any_table_is_touched(
    spark: SparkSession, demo_run: DemoRun, lake: Path
) -> None:
    settings, first = demo_settings(lake, demo_run.log), demo_run.line["model_version"]

    def refused(settings: Settings, to: str | None = None) -> tuple[int, str]:
        line = run_verb(spark, "rollback", settings, to=to)
        return line["exit_code"], line["reason"]

    before = table_bytes(lake / "main")
    code, reason = refused(settings, to="no-such")
    assert (code, "no publication or model 'no-such'" in reason) == (2, True)
    code, reason = refused(demo_settings(lake, demo_run.log, "publish.slot=challenger"))
    assert (code, "nothing has been published into slot challenger" in reason) == (2, True)
    code, reason = refused(demo_settings(demo_run.root, demo_run.log))
    assert (code, f"nothing but {first} live" in reason) == (2, True)
    assert table_bytes(lake / "main") == before

    # The table that is changed last has lost the files of its earlier version.
    lists = DeltaTable(str(lake / "main" / "recommendations"))
    lists.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    before = table_bytes(lake / "main")
    code, reason = refused(settings)
    assert (code, "can no longer be read" in reason) == (3, True), reason
    assert f"factorlake publish --model {first} --force" in reason
    assert table_bytes(lake / "main") == before


def test_lists_that_were_taken_back_do_not_come_live_again_by_themselves(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    settings = demo_settings(root, demo_run.log, "recommend.k=5")
    assert [run_verb(spark, verb, settings)["exit_code"] for verb in ("recommend", "publish")] == [0, 0]
    assert published_rows(root) != published_rows(demo_run.root)
    assert run_verb(spark, "rollback", settings)["exit_code"] == 0
    assert published_rows(root) == published_rows(demo_run.root)
    before = published_bytes(root)
    night = run_verb(spark, "run", settings, first="recommend")
    assert (night["exit_code"], "taken back" in night["reason"]) == (99, True), night["reason"]
    assert published_bytes(root) == before
    # A person may still want them.
    named = run_verb(spark, "publish", settings, model=demo_run.line["model_version"])
    assert (named["exit_code"], named["counts"]["recommendations_changed"] > 0) == (0, True)


def test_publish_and_rollback_of_another_slot_leave_every_byte_of_what_is_live(
    spark: SparkSession, demo_run: DemoRun, lake: Path
) -> None:
    before = table_bytes(lake / "main")
    settings = demo_settings(lake, demo_run.log, *OTHER, "publish.slot=challenger")
    published = [
        run_verb(spark, "publish", settings, model=demo_run.line["model_version"]),
        run_verb(spark, "publish", settings, force=True),
        run_verb(spark, "rollback", settings),
    ]
    assert [line["exit_code"] for line in published] == [0, 0, 0]
    assert table_bytes(lake / "main") == before
    challenger = {table: rows_of(lake / "main" / "slots" / "challenger" / table) for table in PUBLISHED_TABLES}
    assert challenger == published_rows(demo_run.root)
