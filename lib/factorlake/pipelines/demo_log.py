"""The embedded demo log: a music service with planted tastes, as the messy files such a service leaves.

Reads nothing. Writes into one folder

    events/     plays, likes and skips by day: JSON lines from the app, CSV from the web player, some gzipped
    ratings/    star ratings by day: CSV
    tracks.csv listeners.csv
    manifest.json    how many records of each kind, flaw by flaw, were planted
    planted.npz      the tastes, to judge afterwards how much of them a model found

The same settings give the same bytes, and a file that already holds its bytes is left untouched, so that a
second run finds nothing new to ingest.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from factorlake.config.settings import DemoSettings
from factorlake.errors import ConfigError
from factorlake.evaluation.planted import PlantedTaste, recovered_share
from factorlake.pipelines.demo_catalogue import Listener, Track, make_listeners, make_tracks
from factorlake.pipelines.demo_events import START, event_log, rating_log
from factorlake.pipelines.demo_mess import MessyLog
from factorlake.types import Objective

log = logging.getLogger(__name__)

TASTE_RANK = 10
_TASTE_STRENGTH = 2.5
_ACTIVITY_SPREAD = 0.7
# Stream of the demo's own draws beside those that the planted taste makes of the same seed.
_DEMO_STREAM = 10
_TASTE_FIELDS = tuple(field.name for field in fields(PlantedTaste))


@dataclass(frozen=True)
class DemoLog:
    """Where the demo log lies, and what was planted in it."""

    events: Path
    ratings: Path
    tracks: Path
    listeners: Path
    planted: Path
    manifest: dict[str, Any]


def write_demo_log(settings: DemoSettings, folder: Path) -> DemoLog:
    """Write the demo log into `folder`, made if need be, and return where its parts lie.

    Raises
    ------
    ConfigError : the folder holds something else, or a demo log of other settings.
    """
    _refuse_foreign(folder, settings)
    taste = PlantedTaste.make(
        settings.listeners,
        settings.tracks,
        rank=TASTE_RANK,
        seed=settings.seed,
        strength=_TASTE_STRENGTH,
        activity_spread=_ACTIVITY_SPREAD,
    )
    rng = np.random.default_rng([settings.seed, _DEMO_STREAM])
    tracks = make_tracks(taste.item_taste, rng)
    listeners = make_listeners(settings.listeners, rng)
    listener_ids, track_ids = [row.listener_id for row in listeners], [row.track_id for row in tracks]
    events = event_log(taste, listener_ids, track_ids, settings.days, rng)
    ratings = rating_log(taste, listener_ids, track_ids, settings.days, rng)
    manifest = {"settings": settings.model_dump(), "events": events.counts(), "ratings": ratings.counts()}
    result = DemoLog(
        events=folder / "events",
        ratings=folder / "ratings",
        tracks=folder / "tracks.csv",
        listeners=folder / "listeners.csv",
        planted=folder / "planted.npz",
        manifest=manifest,
    )
    # The manifest goes first: it marks the folder as ours should the writing be cut short.
    _put(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    _put_log(result.events, events)
    _put_log(result.ratings, ratings)
    _put(result.tracks, _table(tracks))
    _put(result.listeners, _table(listeners))
    _put(result.planted, _packed(taste, listener_ids, track_ids))
    log.info("demo log: %d events, %d ratings", manifest["events"]["records"], manifest["ratings"]["records"])
    return result


def read_planted(planted: Path) -> tuple[PlantedTaste, dict[str, int], dict[str, int]]:
    """Return the tastes of planted.npz, and the position of each listener and each track in them."""
    with np.load(planted, allow_pickle=False) as stored:
        taste = PlantedTaste(
            **{name: stored[name] if stored[name].ndim else stored[name].item() for name in _TASTE_FIELDS}
        )
        listener_at = {str(name): position for position, name in enumerate(stored["listener_ids"])}
        track_at = {str(name): position for position, name in enumerate(stored["track_ids"])}
    return taste, listener_at, track_at


def planted_share_of(
    planted: Path,
    objective: Objective,
    lists: Mapping[str, Sequence[str]],
    seen: Mapping[str, Collection[str]],
) -> float:
    """Return the share of the planted taste that lists found: 0 no better than popularity, 1 the best
    possible.

    Parameters
    ----------
    planted : planted.npz of the demo log.
    objective : explicit lists are measured by the stars that listeners would give, others by what they seek out.
    lists : listener id → track ids, best first, without what the listener has seen.
    seen : listener id → track ids with an accepted event.

    Raises
    ------
    ConfigError : an id that the demo log does not have, or a seen track in a list.
    """
    taste, listener_at, track_at = read_planted(planted)
    try:
        users = np.array([listener_at[name] for name in lists], dtype=np.int64)
        listed = np.full((len(lists), max(map(len, lists.values()), default=0)), -1, dtype=np.int64)
        for row, tracks in enumerate(lists.values()):
            listed[row, : len(tracks)] = [track_at[name] for name in tracks]
        seen_rows = [[track_at[name] for name in seen.get(listener, ())] for listener in lists]
    except KeyError:
        raise ConfigError(
            "the lists name listeners or tracks that this demo log does not have: was it made anew?"
        ) from None
    seen_ptr = np.cumsum([0, *map(len, seen_rows)])
    seen_items = np.array([track for row in seen_rows for track in row], dtype=np.int64)
    scores = taste.expected_stars(users) if objective == "explicit" else taste.scores(users)
    return recovered_share(scores, listed, seen_ptr, seen_items)


def _refuse_foreign(folder: Path, settings: DemoSettings) -> None:
    manifest = folder / "manifest.json"
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not manifest.exists():
        raise ConfigError(f"{folder} holds other files; name an empty folder for the demo log")
    if json.loads(manifest.read_text())["settings"] != settings.model_dump():
        raise ConfigError(f"{folder} holds a demo log of other settings; remove it or name another folder")


def _put_log(folder: Path, messy: MessyLog) -> None:
    for number, (day, source, text) in enumerate(messy.files()):
        date = np.datetime_as_string(START + np.timedelta64(day, "D"), unit="D")
        name, data = f"{date}-{source}", text.encode()
        if number % 3 == 1:
            name, data = f"{name}.gz", gzip.compress(data, mtime=0)
        _put(folder / name, data)


def _put(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the log's folders, where no reader of the log would take a half-written file for a part of it.
    partial = path.parent.parent / f".{path.name}.partial"
    partial.write_bytes(data)
    os.replace(partial, path)


def _table(rows: Sequence[Track] | Sequence[Listener]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue().encode()


def _packed(taste: PlantedTaste, listener_ids: list[str], track_ids: list[str]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(getattr(taste, name)) for name in _TASTE_FIELDS}
    np.savez(buffer, listener_ids=np.array(listener_ids), track_ids=np.array(track_ids), **arrays)
    return buffer.getvalue()
