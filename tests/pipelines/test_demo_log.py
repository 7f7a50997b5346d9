"""The demo log: the same bytes each time, and exactly the flaws it says, recounted in plain Python."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from factorlake.config.loader import load_settings
from factorlake.config.settings import DemoSettings
from factorlake.errors import ConfigError
from factorlake.evaluation.planted import PlantedTaste
from factorlake.pipelines.demo_log import DemoLog, planted_share_of, write_demo_log

CONF = Path(__file__).parents[2] / "conf" / "base"
SMALL = DemoSettings(listeners=120, tracks=100, days=3, seed=4)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoLog:
    return write_demo_log(DemoSettings(), tmp_path_factory.mktemp("demo") / "log")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records_of(folder: Path) -> list[tuple[str, dict[str, str | None] | None]]:
    """Each record of a folder as (its text, its fields or None where it is broken)."""
    found: list[tuple[str, dict[str, str | None] | None]] = []
    for path in sorted(folder.iterdir()):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode().splitlines()
        if ".csv" in path.name:
            header, *rest = csv.reader(lines)
            for line, row in zip(lines[1:], rest, strict=True):
                found.append((line, dict(zip(header, row, strict=True)) if len(row) == len(header) else None))
            continue
        for line in lines:
            try:
                fields = json.loads(line)
            except json.JSONDecodeError:
                found.append((line, None))
            else:
                found.append((line, {name: None if v is None else str(v) for name, v in fields.items()}))
    return found


def number_flaws(text: str | None, low: float = -math.inf, high: float = math.inf) -> list[str]:
    try:
        value = float(text or "")
    except ValueError:
        return ["value_not_a_number"]
    if not math.isfinite(value):
        return ["value_not_finite"]
    return [] if low <= value <= high else ["value_out_of_range"]


def time_flaws(text: str | None) -> list[str]:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return ["unreadable_time"]
    year = moment.replace(tzinfo=moment.tzinfo or UTC).year
    return [] if 2020 <= year < 2030 else ["impossible_time"]


def id_flaws(fields: dict[str, str | None]) -> list[str]:
    return [
        reason
        for column, reason in (("listener", "missing_user_id"), ("track", "missing_item_id"))
        if not (fields.get(column) or "").strip()
    ]


def event_flaws(fields: dict[str, str | None]) -> list[str]:
    return [
        *id_flaws(fields),
        *number_flaws(fields.get("plays")),
        *time_flaws(fields.get("at")),
        *(["unknown_event_type"] if fields["action"] not in ("play", "like", "skip") else []),
        *(["bot"] if "bot" in str(fields["agent"]).lower() else []),
    ]


def rating_flaws(fields: dict[str, str | None]) -> list[str]:
    return [*id_flaws(fields), *number_flaws(fields.get("stars"), 1, 5), *time_flaws(fields.get("rated_at"))]


@pytest.mark.parametrize("kind", ["events", "ratings"])
def test_a_plain_recount_of_the_files_finds_exactly_what_was_planted(demo: DemoLog, kind: str) -> None:
    folder, flaws_of = {"events": (demo.events, event_flaws), "ratings": (demo.ratings, rating_flaws)}[kind]
    records = records_of(folder)
    distinct = dict(records)
    quarantined: Counter[str] = Counter()
    padded = accepted = 0
    for fields in distinct.values():
        if fields is None:
            quarantined["broken_record"] += 1
            continue
        flaws = flaws_of(fields)
        assert len(flaws) <= 1, "a flawed record breaks exactly one rule"
        quarantined.update(flaws)
        if not flaws:
            accepted += 1
            padded += any(str(fields[c]) != str(fields[c]).strip() for c in ("listener", "track"))
    assert demo.manifest[kind] == {
        "records": len(records),
        "accepted": accepted,
        "duplicates": len(records) - len(distinct),
        "quarantined": dict(quarantined),
        "padded_ids": padded,
    }


@pytest.mark.parametrize("kind", ["events", "ratings"])
def test_the_planted_counts_add_up(demo: DemoLog, kind: str) -> None:
    counts = demo.manifest[kind]
    assert counts["records"] == counts["accepted"] + counts["duplicates"] + sum(counts["quarantined"].values())


def test_the_log_has_the_size_and_every_kind_of_mess_a_service_leaves(demo: DemoLog) -> None:
    events = demo.manifest["events"]
    assert 50_000 < events["records"] < 65_000
    assert min(events["duplicates"], events["padded_ids"], *events["quarantined"].values()) > 20
    names = {path.name for path in demo.events.iterdir()}
    for ending in (".jsonl", ".jsonl.gz", ".csv", ".csv.gz"):
        assert any(name.endswith(ending) for name in names), ending


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    write_demo_log(SMALL, tmp_path / "a")
    write_demo_log(SMALL, tmp_path / "b")
    first, second = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "b")
    assert first == second
    assert len(first) > 8


def test_another_seed_gives_another_log(tmp_path: Path) -> None:
    write_demo_log(SMALL, tmp_path / "a")
    write_demo_log(SMALL.model_copy(update={"seed": 5}), tmp_path / "b")
    first, second = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "b")
    assert all(first[name] != second[name] for name in first.keys() & second.keys())


def test_a_second_run_leaves_whole_files_untouched_and_mends_a_damaged_one(tmp_path: Path) -> None:
    log = write_demo_log(SMALL, tmp_path / "log")
    whole = bytes_of(tmp_path / "log")
    damaged, *others = sorted(log.events.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = [path.stat().st_mtime_ns for path in others]
    write_demo_log(SMALL, tmp_path / "log")
    assert bytes_of(tmp_path / "log") == whole
    assert [path.stat().st_mtime_ns for path in others] == before
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("not to be mixed with anything")
    with pytest.raises(ConfigError, match="holds other files"):
        write_demo_log(SMALL, tmp_path)


def test_a_folder_with_a_demo_log_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_demo_log(SMALL, tmp_path / "log")
    with pytest.raises(ConfigError, match="other settings"):
        write_demo_log(SMALL.model_copy(update={"days": 2}), tmp_path / "log")


@pytest.mark.parametrize("settings", [{"listeners": 10, "tracks": 10, "days": 2}, {"tracks": 1700, "listeners": 50}])
def test_unusual_sizes_give_a_log_too(tmp_path: Path, settings: dict[str, int]) -> None:
    log = write_demo_log(DemoSettings(**settings), tmp_path / "log")
    with log.tracks.open(newline="") as file:
        tracks = list(csv.DictReader(file))
    assert len({row["title"] for row in tracks}) == len({row["track_id"] for row in tracks}) == len(tracks)


def test_every_id_of_a_good_event_has_its_attributes(demo: DemoLog) -> None:
    with demo.tracks.open(newline="") as tracks, demo.listeners.open(newline="") as listeners:
        track_ids = {row["track_id"] for row in csv.DictReader(tracks)}
        listener_ids = {row["listener_id"] for row in csv.DictReader(listeners)}
    assert (len(track_ids), len(listener_ids)) == (500, 1000)
    for _, fields in records_of(demo.events):
        if fields is not None and not event_flaws(fields):
            assert str(fields["track"]).strip() in track_ids
            assert str(fields["listener"]).strip() in listener_ids


def test_genres_follow_the_planted_taste(demo: DemoLog) -> None:
    with np.load(demo.planted, allow_pickle=False) as stored:
        axis = np.argmax(stored["item_taste"][:, :8], axis=1)
    with demo.tracks.open(newline="") as file:
        genres = [row["genre"] for row in csv.DictReader(file)]
    assert len(set(zip(genres, axis, strict=True))) == len(set(genres)) == 8


def test_planted_share_by_ids_is_one_for_the_best_lists(demo: DemoLog) -> None:
    with np.load(demo.planted, allow_pickle=False) as stored:
        listeners, tracks = stored["listener_ids"][:50], stored["track_ids"]
        scores = stored["strength"] * stored["user_taste"] @ stored["item_taste"].T + stored["log_popularity"]
    best = {str(who): [str(t) for t in tracks[np.argsort(-scores[n])[:10]]] for n, who in enumerate(listeners)}
    # The scores are summed in another precision here: only the order of the best ten must agree.
    assert planted_share_of(demo.planted, "implicit", best, {}) == pytest.approx(1, abs=1e-6)


def test_lists_of_another_log_are_refused_without_naming_anyone(demo: DemoLog) -> None:
    with pytest.raises(ConfigError, match="does not have") as refused:
        planted_share_of(demo.planted, "implicit", {"L99999": ["trk-none"]}, {})
    assert "L99999" not in str(refused.value)


def test_the_demo_conf_files_name_the_columns_and_files_of_the_log(demo: DemoLog) -> None:
    for name, folder in (("demo", demo.events), ("demo_ratings", demo.ratings)):
        settings = load_settings([CONF / f"{name}.yaml"])
        assert settings.demo == DemoSettings()
        assert Path(settings.require_input()).name == folder.name
        fields = next(fields for _, fields in records_of(folder) if fields)
        columns = settings.events.columns.model_dump(exclude_none=True).values()
        assert set(columns) <= set(fields)
        source = settings.attributes.items
        assert source is not None
        assert source.input is not None
        assert Path(source.input).resolve() == Path(settings.require_input()).parent / "tracks.csv"


def test_listeners_play_to_their_taste_and_skip_against_it(demo: DemoLog) -> None:
    taste = PlantedTaste.make(1000, 500, seed=DemoSettings().seed, strength=2.5, activity_spread=0.7)
    with np.load(demo.planted, allow_pickle=False) as stored:
        listener_at = {name: at for at, name in enumerate(stored["listener_ids"])}
        track_at = {name: at for at, name in enumerate(stored["track_ids"])}
    likings: dict[str, list[float]] = {"play": [], "like": [], "skip": []}
    products = taste.user_taste @ taste.item_taste.T
    for _, fields in records_of(demo.events):
        if fields is not None and not event_flaws(fields):
            who, what = listener_at[str(fields["listener"]).strip()], track_at[str(fields["track"]).strip()]
            likings[str(fields["action"])].append(products[who, what])
    assert np.mean(likings["like"]) > np.mean(likings["play"]) > 0.5 > -0.3 > np.mean(likings["skip"])
