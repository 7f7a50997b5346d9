"""The messy log of a wholesaler beside a recount in plain Python: all at once, day by day, in any order."""

from __future__ import annotations

import csv
import gzip
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest
from pyspark.sql import SparkSession

from factorlake.config.loader import load_settings
from factorlake.config.settings import Settings
from tests.pipelines.demo_lake import CONF, run_verb
from tests.reference.contents import lake_contents, read_table, rows_of

pytestmark = pytest.mark.spark

BLANK, CANCELLED = "missing_user_id", "cancellation"
# Which batch and file brought a record depends on how the log arrived; all else must not.
OF_THE_ARRIVAL = ("batch", "file", "position")


@dataclass(frozen=True)
class Day:
    """One daily file: its lines as fields (InvoiceNo, StockCode, Description, Quantity, ... by name)."""

    path: Path
    lines: list[dict[str, str]]

    @property
    def blank_share(self) -> float:
        return sum(not line["CustomerID"].strip() for line in self.lines) / len(self.lines)


@pytest.fixture(scope="module")
def days(data_dir: Path) -> list[Day]:
    found = []
    for path in sorted((data_dir / "online-retail-raw").glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            found.append(Day(path, list(csv.DictReader(file))))
    return found


@pytest.fixture(scope="module")
def eight(days: list[Day]) -> list[Day]:
    """The day with most blank customers, after the seven earlier ones with shares nearest the median."""
    worst = max(days, key=lambda day: day.blank_share)
    typical = median(day.blank_share for day in days)
    earlier = [day for day in days if day.path < worst.path]
    nearest = sorted(earlier, key=lambda day: (abs(day.blank_share - typical), day.path))[:7]
    return [*sorted(nearest, key=lambda day: day.path), worst]


def reasons_of(line: dict[str, str]) -> set[str]:
    """The rules of conf/base/online_retail.yaml that a line breaks, by plain Python."""
    broken = {
        BLANK: not line["CustomerID"].strip(),
        CANCELLED: line["InvoiceNo"][:1] in "Cc",
        "not_a_product": not re.fullmatch(r"\s*\d{5}[A-Za-z]*\s*", line["StockCode"]),
        "no_quantity": float(line["Quantity"]) <= 0,
        "no_price": float(line["UnitPrice"]) <= 0,
    }
    return {reason for reason, is_broken in broken.items() if is_broken}


def expected_of(days: list[Day]) -> tuple[dict[str, int], Counter[str]]:
    """Counts of a clean run over the days, and of the quarantined records by reason."""
    lines = [line for day in days for line in day.lines]
    distinct = {tuple(line.values()): reasons_of(line) for line in lines}
    n_refused = sum(bool(reasons) for reasons in distinct.values())
    counts = {
        "rows": len(lines),
        "accepted": len(distinct) - n_refused,
        "quarantined": n_refused,
        "duplicates": len(lines) - len(distinct),
    }
    return counts, Counter(reason for reasons in distinct.values() for reason in reasons)


def settings_at(folder: Path, *more: str) -> Settings:
    (folder / "log").mkdir(parents=True)
    values = [f"root={folder}/lake", f"input={folder}/log", "validate.expectations=null", *more]
    return load_settings([CONF / "base" / "online_retail.yaml"], values)


def contents(settings: Settings) -> dict[str, list[str]]:
    root = Path(settings.root)
    return {name: rows_of(root / name, OF_THE_ARRIVAL) for name in ("interactions", "quarantine")}


def add(days: list[Day], settings: Settings) -> None:
    for day in days:
        shutil.copy2(day.path, settings.require_input())


def counts_of(lines: list[dict[str, Any]]) -> dict[str, int]:
    names = ("rows", "accepted", "quarantined", "duplicates")
    return {name: sum(line["counts"][name] for line in lines) for name in names}


def day_by_day(spark: SparkSession, days: list[Day], settings: Settings) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Take the days one at a time, then accept what was refused; return refusals by file, and all lines."""
    refused: dict[str, str] = {}
    batches, lines = [], []
    for day in days:
        add([day], settings)
        assert run_verb(spark, "ingest", settings)["exit_code"] == 0
        lines.append(run_verb(spark, "validate", settings))
        if lines[-1]["exit_code"] == 3:
            refused[day.path.name] = lines[-1]["reason"]
            batches += lines[-1]["batches"]
        else:
            assert lines[-1]["exit_code"] == 0, lines[-1]["reason"]
    for batch in batches:
        lines.append(run_verb(spark, "validate", settings, accept=batch))
        assert lines[-1]["exit_code"] == 0, lines[-1]["reason"]
    return refused, lines


def take_all(spark: SparkSession, days: list[Day], settings: Settings) -> dict[str, Any]:
    add(days, settings)
    assert run_verb(spark, "ingest", settings)["exit_code"] == 0
    line = run_verb(spark, "validate", settings)
    assert line["exit_code"] == 0, line["reason"]
    return line


def test_eight_days_one_at_a_time_in_any_order_give_what_all_at_once_give(
    spark: SparkSession, eight: list[Day], tmp_path: Path
) -> None:
    worst = eight[-1].path.name
    counts, reasons = expected_of(eight)

    at_once = settings_at(tmp_path / "at_once")
    assert counts_of([take_all(spark, eight, at_once)]) == counts
    found = read_table(Path(at_once.root) / "quarantine").to_pandas()["reasons"].explode()
    assert Counter(found) == reasons
    expected = contents(at_once)

    # No limit on the share here: the log's own history alone must tell that day from the others.
    in_order = settings_at(tmp_path / "in_order", "validate.gate.max_quarantined_share=1")
    refused, lines = day_by_day(spark, eight, in_order)
    assert list(refused) == [worst]
    assert "against a median of" in refused[worst]
    assert counts_of(lines) == counts
    assert contents(in_order) == expected

    # And here the limit of the conf file alone, whatever came before.
    shuffled = settings_at(tmp_path / "shuffled", "validate.gate.history=false")
    refused, lines = day_by_day(spark, Random(3).sample(eight, len(eight)), shuffled)
    assert list(refused) == [worst]
    assert "max_quarantined_share" in refused[worst]
    assert counts_of(lines) == counts
    assert contents(shuffled) == expected


@pytest.mark.soak
def test_the_whole_year_is_accounted_for_line_by_line_and_every_customer_has_a_list(
    spark: SparkSession, days: list[Day], tmp_path: Path
) -> None:
    assert len(days) == 305
    settings = settings_at(tmp_path)
    add(days, settings)
    line = run_verb(spark, "run", settings)
    assert line["exit_code"] == 0, line["reason"]
    counts, reasons = expected_of(days)
    assert (counts["rows"], counts["duplicates"]) == (541_909, 5_268)
    assert {name: line["counts"][f"validate.{name}"] for name in counts} == counts

    root = Path(settings.root)
    quarantine = read_table(root / "quarantine").to_pandas()
    assert Counter(quarantine["reasons"].explode()) == reasons
    all_lines = [record for day in days for record in day.lines]
    for reason, n_lines in ((BLANK, 135_080), (CANCELLED, 9_288)):
        with_it = [tuple(record.values()) for record in all_lines if reason in reasons_of(record)]
        assert len(with_it) == n_lines
        # Each is in quarantine with that reason, or an exact repeat of one that is.
        assert len(set(with_it)) == sum(reason in told for told in quarantine["reasons"])

    bought = read_table(root / "interactions").to_pandas().groupby("user_id")["item_id"].agg(set)
    assert not [user for user in bought.index if user.endswith(".0")]
    listed = read_table(root / "online_retail" / "recommendations").to_pandas().groupby("user_id")["item_id"]
    assert set(listed.groups) == set(bought.index)
    for user, items in listed:
        assert (len(items), items.nunique()) == (10, 10)
        assert bought[user].isdisjoint(items)

    before = lake_contents(root)
    assert run_verb(spark, "run", settings)["exit_code"] == 99
    assert lake_contents(root) == before


@pytest.mark.soak
@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_the_whole_year_one_day_at_a_time_gives_what_all_at_once_give(
    spark: SparkSession, days: list[Day], tmp_path: Path, order: str
) -> None:
    at_once = settings_at(tmp_path / "at_once")
    take_all(spark, days, at_once)
    one_by_one = settings_at(tmp_path / "one_by_one")
    chosen = days if order == "in order" else Random(5).sample(days, len(days))
    refused, lines = day_by_day(spark, chosen, one_by_one)
    assert max(days, key=lambda day: day.blank_share).path.name in refused
    assert counts_of(lines) == expected_of(days)[0]
    assert contents(one_by_one) == contents(at_once)
