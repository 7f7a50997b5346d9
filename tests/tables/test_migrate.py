"""Lakes of other releases: read, migrated, or refused by name; rows never change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from factorlake.config.loader import load_settings
from factorlake.errors import ConfigError, LeaseHeldError
from factorlake.pipelines import migrate
from factorlake.tables import delta_io, schemas
from factorlake.tables.lease import Lease
from factorlake.tables.schemas import SCHEMA_VERSION, SCHEMAS
from tests.faults.dying import Killed
from tests.fixtures.write_lake import CONF, settings_at
from tests.pipelines.demo_lake import run_verb
from tests.reference.contents import lake_contents, tables_of

pytestmark = pytest.mark.spark

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BEFORE = FIXTURES / f"lake-schema-{SCHEMA_VERSION - 1}.tar.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A lake that the release before wrote."""
    shutil.unpack_archive(BEFORE, tmp_path)
    return tmp_path / "lake"


def migrated(root: Path, capsys: pytest.CaptureFixture[str], dry_run: bool = False) -> dict[str, object]:
    capsys.readouterr()
    code = migrate.show(load_settings([CONF], settings_at(root)), as_json=True, dry_run=dry_run)
    line = dict(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert line["exit_code"] == code
    return line


def versions(root: Path) -> dict[str, tuple[int, str]]:
    """Version of each table, and the schema version that it says it has, as delta-rs reads them."""
    found = {name: DeltaTable(str(path)) for name, path in tables_of(root).items()}
    return {
        name: (table.version(), table.metadata().configuration["factorlake.schemaVersion"])
        for name, table in found.items()
    }


def jobs(spark: SparkSession, root: Path) -> dict[str, int]:
    """Exit codes of the jobs that need no log, run again over a lake."""
    # How rules are hashed is not part of a table's schema; what is in stays.
    settings = load_settings([CONF], [*settings_at(root), "validate.on_rule_change=keep"])
    codes = {}
    for verb in ("validate", "train", "evaluate", "recommend", "publish"):
        line = run_verb(spark, verb, settings)
        codes[verb] = int(line["exit_code"])
        assert codes[verb] in (0, 99), line["reason"]
    return codes


def test_a_lake_of_the_release_before_is_worked_on_as_it_is_and_migrated(
    spark: SparkSession, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents, first = lake_contents(root), versions(root)
    assert {version for _, version in first.values()} == {str(SCHEMA_VERSION - 1)}
    # Nothing is done again: the same models, lists and publication.
    assert set(jobs(spark, root).values()) == {99}
    assert lake_contents(root) == contents

    told = migrated(root, capsys, dry_run=True)
    tables = told["tables"]
    assert isinstance(tables, dict) and set(tables) == set(first)
    assert {name: version for name, (_, version) in versions(root).items()} == {
        name: version for name, (_, version) in first.items()
    }
    assert migrated(root, capsys)["tables"] == tables
    assert {version for _, version in versions(root).values()} == {str(SCHEMA_VERSION)}
    assert lake_contents(root) == contents
    assert migrated(root, capsys) == {"exit_code": 99, "dry_run": False, "schema_version": SCHEMA_VERSION, "tables": {}}
    # Published tables have another version now: publish says so in publications, and moves no row.
    jobs(spark, root)
    assert set(jobs(spark, root).values()) == {99}
    assert {name: hashed for name, hashed in lake_contents(root).items() if name != "main/publications"} == {
        name: hashed for name, hashed in contents.items() if name != "main/publications"
    }


def test_a_migration_killed_anywhere_is_finished_by_the_next(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    contents = lake_contents(root)
    done = 0
    properties = delta_io.properties_of

    def dies(schema: schemas.TableSchema) -> dict[str, str]:
        # Between the columns and the version.
        nonlocal done
        done += 1
        if done in (1, 4):
            raise Killed
        return properties(schema)

    monkeypatch.setattr(delta_io, "properties_of", dies)
    for _ in range(2):
        with pytest.raises(Killed):
            migrated(root, capsys)
    assert len({version for _, version in versions(root).values()}) == 2
    migrated(root, capsys)
    assert {version for _, version in versions(root).values()} == {str(SCHEMA_VERSION)}
    assert lake_contents(root) == contents


def test_a_lake_that_a_job_is_writing_is_not_migrated(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = versions(root)
    with Lease(f"{root}/main/_lease", "job"), pytest.raises(LeaseHeldError, match="run job"):
        migrated(root, capsys)
    assert versions(root) == before


def test_columns_that_a_table_lacks_come_with_their_comments_and_without_values(
    spark: SparkSession, tmp_path: Path
) -> None:
    path, schema = str(tmp_path / "models"), SCHEMAS["models"]
    properties = "'factorlake.schemaVersion' = '1'"
    spark.sql(f"CREATE TABLE delta.`{path}` (model_version string) USING delta TBLPROPERTIES ({properties})")
    spark.sql(f"INSERT INTO delta.`{path}` VALUES ('m')")
    missing = [name for name in schema.fields.names if name != "model_version"]
    assert delta_io.missing_columns(spark, path, schema) == missing == delta_io.migrate(spark, path, schema)
    assert delta_io.missing_columns(spark, path, schema) == []
    frame = delta_io.read(spark, path)
    assert [(f.name, f.dataType) for f in frame.schema.fields] == [(f.name, f.dataType) for f in schema.fields.fields]
    assert frame.schema["gram"].metadata["comment"] == schema.fields["gram"].metadata["comment"]
    (row,) = frame.collect()
    assert row["model_version"] == "m" and set(row.asDict().values()) == {"m", None}


@pytest.mark.parametrize("offset", [1, -2])
def test_a_table_of_a_version_that_is_not_read_is_refused_by_name(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """As a release writes it whose schema version is another one."""
    other = SCHEMA_VERSION + offset
    path = str(tmp_path / "users")
    schema = schemas._table("users", "Of another release.", "id string: The id.\nindex bigint: Its index.")
    with monkeypatch.context() as there:
        there.setattr(schemas, "SCHEMA_VERSION", other)
        there.setattr(delta_io, "SCHEMA_VERSION", other)
        there.setattr(delta_io, "READABLE", (other - 1, other))
        written = schemas._table("users", "Of another release.", "id string: The id.\nindex bigint: Its index.")
        delta_io.append_rows(spark, [{"id": "u", "index": 0}], path, written, run_id="r")
    age = "a newer" if offset > 0 else "an older"
    for look in (delta_io.exists, delta_io.read):
        with pytest.raises(ConfigError, match=f"{path} has schema version {other}, written by {age} release"):
            look(spark, path)
    with pytest.raises(ConfigError, match=f"schema version {other}"):
        delta_io.append_rows(spark, [{"id": "v", "index": 1}], path, schema, run_id="r")
    assert DeltaTable(path).to_pyarrow_table().num_rows == 1


def test_a_column_that_a_newer_release_added_is_noticed_too(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "users")
    lines = "id string: The id.\nindex bigint: Its index."
    delta_io.append_rows(spark, [{"id": "u", "index": 0}], path, schemas._table("users", "Now.", lines), run_id="r")
    with monkeypatch.context() as there:
        for module in (schemas, delta_io):
            there.setattr(module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        there.setattr(delta_io, "READABLE", (SCHEMA_VERSION, SCHEMA_VERSION + 1))
        newer = schemas._table("users", "Then.", lines + "\nkind string: Another thing.")
        delta_io.append_rows(spark, [{"id": "v", "index": 1, "kind": "k"}], path, newer, run_id="r")
    with pytest.raises(ConfigError, match=f"schema version {SCHEMA_VERSION + 1}, written by a newer release"):
        delta_io.read(spark, path)


def test_a_table_that_is_not_ours_has_no_version_to_refuse(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "theirs")
    spark.range(3).write.format("delta").save(path)
    assert delta_io.read(spark, path).count() == 3
    assert delta_io.schema_version(spark, path) is None
