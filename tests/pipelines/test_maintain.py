"""What `maintain` removes, and what it leaves: what is live, what can be gone back to, what a reader may hold."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from factorlake.config.settings import Settings
from factorlake.tables import delta_io, registry
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.reference.contents import published_bytes, read_table

pytestmark = pytest.mark.spark


def files_on_disk(table: Path) -> set[str]:
    return {path.name for path in table.rglob("*.parquet") if "_delta_log" not in path.parts}


def files_of_version(table: Path, version: int | None = None) -> set[str]:
    return {Path(uri).name for uri in DeltaTable(str(table), version=version).file_uris()}


def live_tables(root: Path) -> dict[str, Any]:
    """Version and contents of what consumers read; the register beside them may be put together."""
    return {name: told for name, told in published_bytes(str(root)).items() if name != "publications"}


@dataclass(frozen=True)
class Maintained:
    """A lake of some models, as it was before `maintain` and as it is after."""

    root: Path
    own: str
    """The demo's model, which is live."""
    before: Path
    """A copy of the lake before."""
    line: dict[str, Any]


def settings_of(root: Path, log: Path, *overrides: str) -> Settings:
    return demo_settings(root, log, "demo=null", "maintain.keep_models=2", "publish.keep_sets=1", *overrides)


def add_models(spark: SparkSession, root: Path, published: dict[str, str], trained: list[str]) -> str:
    """Register models after the demo's own, each with a folder like its; publish some of them, slot by slot, before all
    the others. Return the demo's model."""
    lake = Lake.at(str(root), "main")
    (own,) = registry.trained_models(spark, lake)
    row = registry.model(spark, lake, own["model_version"])
    assert row is not None
    for version in trained:
        shutil.copytree(lake.candidate_folder(own["model_version"]), lake.candidate_folder(version))
        registry.record_model(spark, lake, {**row.asDict(), "model_version": version, "state": "trained"}, "test")
    live = registry.publication(spark, lake, "live")
    assert live is not None
    for version, slot in published.items():
        told = {**live.asDict(), "model_version": version, "slot": slot}
        told |= {"published_at": registry.now(), "run_id": f"publish-{version}"}
        delta_io.append_rows(spark, [told], lake.own("publications"), SCHEMAS["publications"], run_id="test")
    back = {**live.asDict(), "published_at": registry.now()}
    delta_io.append_rows(spark, [back], lake.own("publications"), SCHEMAS["publications"], run_id="test")
    return str(own["model_version"])


@pytest.fixture(scope="module")
def maintained(spark: SparkSession, demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Maintained:
    root = Path(shutil.copytree(demo_run.root, tmp_path_factory.mktemp("maintained") / "lake"))
    # Oldest first: the demo's own, m1, ... m6. Live stands the demo's own again, before it m2 and m1.
    published = {"m1": "live", "m2": "live", "m3": "challenger"}
    own = add_models(spark, root, published, [f"m{n}" for n in range(1, 7)])
    candidates = root / "main" / "candidates"
    shutil.copytree(candidates / "m6", candidates / "killed-in-training")
    for left in ("rating_blocks", "exchange", "checkpoints"):
        (candidates / own / left).mkdir()
    (root / "main" / "searches" / "cut-off").mkdir(parents=True)
    attributes = str(root / "item_attributes")
    few = delta_io.read(spark, attributes).limit(3)
    delta_io.overwrite(spark, few, attributes, SCHEMAS["item_attributes"], run_id="test")
    before = Path(shutil.copytree(root, root.with_name("before")))
    line = run_verb(spark, "maintain", settings_of(root, demo_run.log))
    assert line["exit_code"] == 0, line["reason"]
    return Maintained(root, own, before, line)


def test_candidates_go_but_those_live_those_to_go_back_to_and_the_last_trained(
    spark: SparkSession, demo_run: DemoRun, maintained: Maintained
) -> None:
    root, own = maintained.root, maintained.own
    # Of live m2 and the demo's own stay, of the challenger m3; m5 and m6 were trained last.
    kept = {own, "m2", "m3", "m5", "m6"}
    candidates = root / "main" / "candidates"
    assert {one.name for one in candidates.iterdir()} == kept
    assert sorted(maintained.line["removed"]) == ["killed-in-training", "m1", "m4"]
    assert {one.name for one in (candidates / own).iterdir()} == {"factors", "lists"}
    assert not list((root / "main" / "searches").iterdir())
    told = sorted(read_table(root / "main" / "models").to_pylist(), key=lambda row: row["recorded_at"])
    states = {row["model_version"]: row["state"] for row in told}
    assert [version for version in sorted(states) if states[version] == "expired"] == ["m1", "m4"]
    assert {row["model_version"] for row in registry.trained_models(spark, Lake.at(str(root), "main"))} == kept
    refused = run_verb(spark, "recommend", settings_of(root, demo_run.log), model="m1")
    assert refused["exit_code"] == 2
    assert "was removed by `factorlake maintain`" in refused["reason"]


def test_small_files_are_put_together_and_every_reader_of_this_week_finds_its_own(maintained: Maintained) -> None:
    assert live_tables(maintained.root) == live_tables(maintained.before)
    models = maintained.root / "main" / "models"
    assert len(files_of_version(maintained.before / "main" / "models")) > 6
    assert len(files_of_version(models)) == 1
    # The two that expired are told.
    assert read_table(models).num_rows == read_table(maintained.before / "main" / "models").num_rows + 2
    for before in sorted(maintained.before.rglob("_delta_log")):
        table = maintained.root / before.parent.relative_to(maintained.before)
        if table.exists():
            assert files_on_disk(before.parent) <= files_on_disk(table)


def test_less_than_a_week_takes_a_word_and_then_removes_what_no_version_of_now_needs(
    spark: SparkSession, demo_run: DemoRun, maintained: Maintained
) -> None:
    root = maintained.root
    attributes = root / "item_attributes"
    assert files_of_version(attributes) < files_on_disk(attributes)
    short = settings_of(root, demo_run.log, "maintain.keep_days=0")
    refused = run_verb(spark, "maintain", short)
    assert refused["exit_code"] == 2
    assert "maintain.keep_days 0" in refused["reason"]
    assert "--force" in refused["reason"]
    before = live_tables(root)
    line = run_verb(spark, "maintain", short, force=True)
    # What was removed before is not removed again.
    assert (line["exit_code"], line["removed"]) == (0, [])
    assert files_of_version(attributes) == files_on_disk(attributes)
    assert live_tables(root) == before
