"""Rules that change: what is in stays, is derived again, or moves out of quarantine; killed anywhere, never half."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.pipelines import forget, ingest, replay, validate
from factorlake.pipelines.context import Context
from factorlake.tables import delta_io
from tests.faults.dying import Killed, die_after
from tests.pipelines.lakes import contents, context_at, events, write_csv

pytestmark = pytest.mark.spark

STRICT = [{"name": "low", "type": "range", "column": "value", "max": 3}]
TABLES = ("interactions", "quarantine")
COUNTED = ("accepted", "quarantined", "duplicates", "superseded")
DAYS = (
    [*events(1, 2, 5, 6), ",i1,1,2024-01-01T00:00:00Z"],
    [*events(2, 3, 5, 7), "u8,i8,x,2024-01-01T00:00:00Z"],
)


def rules(
    spark: SparkSession, root: Path, source: Path, strict: bool, policy: str | None = None, /, **more: Any
) -> Context:
    given = {"rules": STRICT if strict else [], "on_rule_change": policy, "gate": {"max_quarantined_share": 0.9}}
    return context_at(spark, str(root), source, validate=given | more.pop("validate", {}), **more)


def filled(context: Context, source: Path, days: tuple[list[str], ...] = DAYS) -> None:
    """Each day ingested and validated."""
    for number, rows in enumerate(days):
        write_csv(source / f"day{number}.csv", *rows)
        assert ingest.run(context).exit_code == 0
        assert validate.run(context).exit_code == 0


def figures(context: Context) -> list[dict[str, float]]:
    """The counts of each batch as they were written last, whatever the batch is called."""
    rows = delta_io.read(context.spark, context.lake.shared("validation_results")).filter("kind = 'count'").collect()
    last = {row["batch"]: row["recorded_at"] for row in sorted(rows, key=lambda row: row["recorded_at"])}
    found: dict[str, dict[str, float]] = {batch: {} for batch in last}
    for row in rows:
        if row["recorded_at"] == last[row["batch"]] and row["value"] and row["rule"] not in ("users", "items"):
            found[row["batch"]][row["rule"]] = row["value"]
    return sorted(found.values(), key=lambda told: sorted(told.items()))


def indexes(context: Context, table: str) -> dict[str, int]:
    """Each id's index."""
    rows = delta_io.read(context.spark, context.lake.shared(table)).select("id", "index").collect()
    return {row["id"]: row["index"] for row in rows}


@pytest.mark.parametrize(("strict_first", "event_key"), [(True, []), (False, ["item_id"])])
def test_a_rebuild_gives_what_the_new_rules_would_have_given_from_the_start(
    spark: SparkSession, lake_root: str, tmp_path: Path, strict_first: bool, event_key: list[str]
) -> None:
    # Another user's event with the same item: under the key item_id the later one supersedes.
    days = ([*DAYS[0], "u9,i1,2,2024-01-02T00:00:00Z"], [*DAYS[1], "u3,i6,1,2024-01-02T00:00:00Z"])
    keyed: dict[str, Any] = {"events": {"columns": {"value": "value"}, "event_key": event_key}}
    source, root = tmp_path / "log", Path(lake_root)
    filled(rules(spark, root / "lake", source, strict_first, **keyed), source, days)
    now = rules(spark, root / "lake", source, not strict_first, "rebuild", **keyed)
    arrived = delta_io.read(spark, now.lake.shared("interactions")).select("event_id", "arrival").collect()
    numbered = indexes(now, "users")
    rebuilt = validate.run(now)
    assert rebuilt.exit_code == 0 and "derived again" in rebuilt.reason
    assert ingest.run(now).exit_code == validate.run(now).exit_code == 99

    clean = rules(spark, root / "clean", tmp_path / "again", not strict_first, **keyed)
    filled(clean, tmp_path / "again", days)
    for table in TABLES:
        assert contents(now, table) == contents(clean, table)
    totals = [
        {name: sum(told.get(name, 0) for told in figures(one)) for name in ("rows", *COUNTED)} for one in (now, clean)
    ]
    if not event_key:
        assert totals[0] == totals[1]
        assert rebuilt.counts["rebuild_enter"] == totals[0]["accepted"] - rebuilt.counts["rebuild_stay"]
    assert totals[0]["rows"] == sum(totals[0][name] for name in COUNTED)
    # What stays keeps when it came; an id keeps its index.
    kept = {row["event_id"]: row["arrival"] for row in arrived}
    after = delta_io.read(spark, now.lake.shared("interactions")).select("event_id", "arrival").collect()
    stayed = [row for row in after if row["event_id"] in kept]
    assert stayed and all(row["arrival"] == kept[row["event_id"]] for row in stayed)
    assert numbered.items() <= indexes(now, "users").items()


def test_rules_that_changed_stop_the_run_until_a_person_has_chosen(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source, root = tmp_path / "log", Path(lake_root)
    filled(rules(spark, root, source, False), source)
    before = [contents(rules(spark, root, source, False), table) for table in TABLES]
    for job in (validate, replay):
        with pytest.raises(ConfigError, match="on_rule_change"):
            job.run(rules(spark, root, source, True))
    unsaid = rules(spark, root, source, True, "keep")
    nothing = validate.run(unsaid)
    assert nothing.exit_code == 99 and "stays as it was judged" in nothing.details["warnings"][0]
    assert before == [contents(unsaid, table) for table in TABLES]
    write_csv(source / "later.csv", *events(9), *events(1, user="v"))
    ingest.run(unsaid)
    assert validate.run(unsaid).counts["quarantined"] == 1
    # From here on the rules of now are those of the newest batch.
    assert validate.run(rules(spark, root, source, True)).reason == "no new batches"
    assert len({row[-1] for row in contents(unsaid, "interactions")}) == 2


def test_a_rebuild_that_would_refuse_most_of_the_log_touches_nothing(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source, root = tmp_path / "log", Path(lake_root)
    filled(rules(spark, root, source, False), source)
    nonsense = [{"name": "low", "type": "range", "column": "value", "max": 0}]
    wrong = rules(spark, root, source, True, "rebuild", validate={"rules": nonsense, "gate": {}})
    versions = {table: delta_io.version(spark, wrong.lake.shared(table)) for table in (*TABLES, "validation_results")}
    with pytest.raises(DataRefusedError, match=r"8 of 8 records that are in \(100.0%\).*0 stay, 0 come in, 6 go"):
        validate.run(wrong)
    assert versions == {table: delta_io.version(spark, wrong.lake.shared(table)) for table in versions}


def test_replay_moves_what_a_mended_rule_accepts_exactly_once(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source, root = tmp_path / "log", Path(lake_root)
    filled(rules(spark, root / "lake", source, True), source)
    mended = rules(spark, root / "lake", source, False, "keep")
    with pytest.raises(DataRefusedError, match="rebuild is due"):
        replay.run(rules(spark, root / "lake", source, False, "rebuild"))
    moved = replay.run(mended)
    assert (moved.exit_code, moved.counts) == (0, {"accepted": 3, "superseded": 0, "new_users": 3, "new_items": 3})
    after = {table: contents(mended, table) for table in TABLES}
    told = figures(mended)
    for _ in range(2):
        assert replay.run(mended).exit_code == 99
        assert {table: contents(mended, table) for table in TABLES} == after
    clean = rules(spark, root / "clean", tmp_path / "again", False)
    filled(clean, tmp_path / "again")
    # But for the rules that each row names.
    for table in TABLES:
        assert [row[:-1] for row in after[table]] == [row[:-1] for row in contents(clean, table)]
    assert told == figures(clean)


def test_replay_under_an_event_key_supersedes_as_validate_does(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    keyed: dict[str, Any] = {"events": {"columns": {"value": "value"}, "event_key": ["user_id", "item_id"]}}
    source, root = tmp_path / "log", Path(lake_root)
    # Of u1's two events with i1 the refused one is later, of u2's with i2 earlier.
    day = [*events(1), *events(2), "u1,i1,9,2024-01-02T00:00:00Z", "u2,i2,9,2023-01-01T00:00:00Z"]
    filled(rules(spark, root / "lake", source, True, **keyed), source, (day,))
    mended = rules(spark, root / "lake", source, False, "keep", **keyed)
    moved = replay.run(mended)
    assert moved.counts == {"accepted": 1, "superseded": 1, "new_users": 0, "new_items": 0}
    accepted = contents(mended, "interactions")
    assert [(row[0], row[3]) for row in accepted] == [("u1", "9.0"), ("u2", "2.0")]
    assert contents(mended, "quarantine") == []
    assert replay.run(mended).exit_code == 99


@dataclass(frozen=True)
class Judged:
    """A lake that strict rules judged, a copy whose rules were mended undisturbed, and the verb that mends them."""

    policy: str
    root: Path
    source: Path
    whole: Context

    def mend(self, context: Context) -> int:
        return (validate if self.policy == "rebuild" else replay).run(context).exit_code


@pytest.fixture(scope="module")
def judged(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp(request.param)
    source, root = folder / "log", folder / "lake"
    filled(rules(spark, root, source, True), source)
    shutil.copytree(root, folder / "undisturbed")
    made = Judged(request.param, root, source, rules(spark, folder / "undisturbed", source, False, request.param))
    assert made.mend(made.whole) == 0
    return made


# rebuild: that it begins, interactions, quarantine, users, items, that it is done. keep, which is replay: interactions,
# users, items, validation_results, quarantine.
N_COMMITS = {"rebuild": 6, "keep": 5}


@pytest.mark.parametrize(
    ("judged", "killed_after"),
    [
        pytest.param(policy, n, marks=() if n in (1, 3, last) else pytest.mark.soak)
        for policy, last in N_COMMITS.items()
        for n in range(1, last + 1)
    ],
    indirect=["judged"],
)
def test_what_is_killed_after_any_of_its_commits_is_done_by_the_next_run(
    spark: SparkSession, judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    there = Path(shutil.copytree(judged.root, tmp_path / "lake"))
    now = rules(spark, there, judged.source, False, judged.policy)
    with monkeypatch.context() as patched:
        patched.setattr(delta_io, "_write", die_after(killed_after, delta_io._write))
        with pytest.raises(Killed):
            judged.mend(now)
    is_done = killed_after == N_COMMITS[judged.policy]
    if judged.policy == "rebuild" and not is_done:
        for policy in (None, "keep"):
            # Also under the rules from before: what is there is neither.
            with pytest.raises(ConfigError, match="cut off"):
                validate.run(rules(spark, there, judged.source, True, policy))
    assert judged.mend(now) == (99 if is_done else 0)
    assert [contents(now, table) for table in TABLES] == [contents(judged.whole, table) for table in TABLES]
    assert figures(now) == figures(judged.whole)
    for side in ("users", "items"):
        assert indexes(now, side) == indexes(judged.whole, side)


@pytest.mark.parametrize("policy", ["keep", "rebuild"])
def test_records_of_users_who_were_forgotten_are_missed_by_neither(
    spark: SparkSession, lake_root: str, tmp_path: Path, policy: str
) -> None:
    source, root = tmp_path / "log", Path(lake_root)
    strict = rules(spark, root, source, True)
    filled(strict, source)
    # One in quarantine, one accepted.
    for user in ("u6", "u1"):
        assert forget.run(strict, user=user).exit_code == 0
    mended = rules(spark, root, source, False, policy)
    moved = replay.run(mended) if policy == "keep" else validate.run(mended)
    assert moved.exit_code == 0
    assert [row[0] for row in contents(mended, "interactions")] == ["u2", "u3", "u5", "u7"]
    assert [row[1] for row in contents(mended, "quarantine")] == ["[missing_user_id]", "[value_not_a_number]"]
    for told in figures(mended):
        assert told["rows"] == sum(told.get(name, 0) for name in COUNTED)
    assert (replay if policy == "keep" else validate).run(mended).exit_code == 99
