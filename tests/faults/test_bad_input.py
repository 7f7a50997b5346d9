"""Bad input on a published lake: a message that names the thing and the way out, and nothing touched."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from factorlake.config.settings import Settings
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.reference.contents import published_bytes, read_table

pytestmark = [pytest.mark.spark, pytest.mark.faults]

HEADER = "listener,track,action,plays,at,agent"


def rows(*plays: object, listener: str = "guest") -> str:
    """CSV text with one event for each value of plays."""
    lines = [f"{listener}{n},trk{n},play,{value},2025-03-05T12:00:{n:02d}Z,web" for n, value in enumerate(plays)]
    return "\n".join([HEADER, *lines]) + "\n"


@pytest.fixture
def settings(demo_run: DemoRun, tmp_path: Path) -> Settings:
    """Settings over a copy of the published lake, with a folder of its own as input."""
    (tmp_path / "new").mkdir()
    root = shutil.copytree(demo_run.root, tmp_path / "lake")
    return demo_settings(Path(root), demo_run.log, "demo=null", f"input={tmp_path}/new")


def new_file(settings: Settings, name: str, data: str | bytes) -> None:
    path = Path(settings.require_input()) / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def last_run(settings: Settings) -> dict[str, Any]:
    found = read_table(Path(settings.root) / "runs").to_pylist()
    return dict(max(found, key=lambda row: row["finished_at"]))


CUT_SHORT = gzip.compress(rows(*range(1, 40)).encode())[:-40]
REFUSED: dict[str, tuple[str, str | bytes, list[str]]] = {
    "a missing column": (
        "day.csv",
        rows(1, 2, 3).replace("track", "song"),
        ["day.csv", "'track'", "events.columns.item_id"],
    ),
    "a file cut short": ("day.csv.gz", CUT_SHORT, ["day.csv.gz", "cannot be read", "ingest.on_unreadable"]),
    "nothing but refused rows": (
        "day.csv",
        rows("--", "--", "--"),
        ["3 of 3 rows (100.0%)", "max_quarantined_share", "value_not_a_number 3", "--accept"],
    ),
    "too many refused rows": (
        "day.csv",
        rows(1, 2, "--", "--", "--"),
        ["3 of 5 rows (60.0%)", "max_quarantined_share", "value_not_a_number 3", "--accept"],
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_input_is_told_and_leaves_what_is_published(
    spark: SparkSession, settings: Settings, fault: str
) -> None:
    name, data, told = REFUSED[fault]
    new_file(settings, name, data)
    before = published_bytes(settings.root)
    line = run_verb(spark, "run", settings)
    assert line["exit_code"] == 3, line["reason"]
    for text in told:
        assert text in line["reason"]
    assert "train" not in line["stages"]
    assert (last_run(settings)["state"], last_run(settings)["exit_code"]) == ("refused", 3)
    assert published_bytes(settings.root) == before
    names = read_table(Path(settings.root) / "interactions")["user_id"].to_pylist()
    assert not any(name.startswith("guest") for name in names)


def test_an_empty_folder_is_refused_on_a_new_lake_and_no_news_on_an_old_one(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    before = published_bytes(settings.root)
    line = run_verb(spark, "run", settings, last="ingest")
    assert (line["exit_code"], published_bytes(settings.root)) == (99, before)
    fresh = settings.model_copy(update={"root": str(tmp_path / "fresh")})
    line = run_verb(spark, "run", fresh, last="ingest")
    assert line["exit_code"] == 3
    assert f"{settings.input} holds no file" in line["reason"]
    assert "check `input`" in line["reason"]


def test_a_day_that_is_missing_is_no_news_and_one_without_a_record_is_refused(
    spark: SparkSession, settings: Settings
) -> None:
    before = published_bytes(settings.root)
    line = run_verb(spark, "run", settings)
    assert (line["exit_code"], published_bytes(settings.root)) == (99, before), line["reason"]
    # Then a file comes with its head alone, and one without a byte.
    new_file(settings, "day.csv", rows())
    new_file(settings, "nothing.csv", "")
    line = run_verb(spark, "run", settings)
    assert (line["exit_code"], published_bytes(settings.root)) == (3, before), line["reason"]
    assert "it has 0 rows, fewer than `validate.gate.min_rows`" in line["reason"]
    assert "train" not in line["stages"]


def test_a_rating_of_five_in_letters_and_a_nan_go_to_quarantine_and_the_rest_in(
    spark: SparkSession, settings: Settings
) -> None:
    before = published_bytes(settings.root)
    new_file(settings, "day.csv", rows(*range(1, 13), "five", "NaN"))
    line = run_verb(spark, "run", settings, last="validate")
    assert line["exit_code"] == 0, line["reason"]
    counts = line["counts"]
    assert [counts[f"validate.{name}"] for name in ("rows", "accepted", "quarantined")] == [14, 12, 2]
    refused = [
        row for row in read_table(Path(settings.root) / "quarantine").to_pylist() if row["raw"].startswith("guest")
    ]
    assert {row["raw"].split(",")[3]: row["reasons"] for row in refused} == {
        "five": ["value_not_a_number"],
        "NaN": ["value_not_finite"],
    }
    assert published_bytes(settings.root) == before
