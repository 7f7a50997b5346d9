"""What the demo's listeners do: plays, likes and skips over some days, and star ratings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.evaluation.planted import PlantedTaste
from factorlake.pipelines.demo_mess import Entry, MessyLog, blank, one_of

START = np.datetime64("2025-03-03T00:00:00", "s")
EVENT_COLUMNS = ("event_id", "listener", "track", "action", "plays", "at", "agent")
RATING_COLUMNS = ("listener", "track", "stars", "rated_at")

_FOUND_PER_LISTENER = 30
_SKIPPED_PER_LISTENER = 8
_RATED_PER_LISTENER = 20
_FOUND, _SKIPPED, _RATED = 0, 1, 2
_SECONDS_PER_DAY = 86_400
_LONG_AGO, _FAR_AHEAD = "1970-01-01T00:00:00Z", "2099-12-31T23:59:59Z"
_BROKEN_SHARE = 0.006

_APP, _WEB, _STARS = "app.jsonl", "web.csv", "stars.csv"
_AGENTS = {
    _APP: ("Noctua/4.2 (Android 15)", "Noctua/4.1 (iOS 18.3)", "Noctua/4.2 (tv; living room)"),
    _WEB: (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/133.0 Safari/537.36",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14.7; rv:135.0) Gecko/20100101 Firefox/135.0",
    ),
}
_BOTS = ("TuneHarvester-bot/1.3", "Mozilla/5.0 (compatible; ChartBot/2.0)", "playlist-robot/0.9")

_EVENT_FLAWS = [
    ("missing_user_id", 0.010, blank("listener")),
    ("missing_item_id", 0.006, blank("track")),
    ("unknown_event_type", 0.005, one_of("action", "hover", "PLAY_V2", "heartbeat")),
    ("value_not_a_number", 0.002, one_of("plays", "five", "1,5", "--")),
    ("value_not_finite", 0.001, one_of("plays", "NaN", "Infinity")),
    ("impossible_time", 0.004, one_of("at", _LONG_AGO, _FAR_AHEAD)),
    ("unreadable_time", 0.001, one_of("at", "yesterday evening", "2025-13-45")),
    ("bot", 0.020, one_of("agent", *_BOTS)),
]
_RATING_FLAWS = [
    ("missing_user_id", 0.006, blank("listener")),
    ("missing_item_id", 0.004, blank("track")),
    ("value_not_a_number", 0.004, one_of("stars", "five", "****")),
    ("value_not_finite", 0.002, one_of("stars", "NaN")),
    ("value_out_of_range", 0.004, one_of("stars", "0.0", "11", "-3")),
    ("impossible_time", 0.004, one_of("rated_at", _LONG_AGO, _FAR_AHEAD)),
]


def event_log(
    taste: PlantedTaste, listener_ids: list[str], track_ids: list[str], n_days: int, rng: np.random.Generator
) -> MessyLog:
    """Return the log of plays, likes and skips.

    Each listener finds tracks to their taste (`PlantedTaste.sample_pairs`) at moments spread evenly over the
    days, plays them again the sooner and the more often the better they suit, and likes some. Others reach
    the listener by their popularity, against the taste, and are skipped.
    """
    end = n_days * _SECONDS_PER_DAY
    listeners, tracks = taste.sample_pairs(_n_pairs(taste, _FOUND_PER_LISTENER), stream=_FOUND)
    found_at = _moments(len(listeners), n_days, rng)
    liking = np.einsum("nd,nd->n", taste.user_taste[listeners], taste.item_taste[tracks])

    replayed = np.repeat(np.arange(len(listeners)), rng.poisson(0.35 * np.exp(0.3 * liking)))
    replayed_at = found_at[replayed] + 600 + rng.exponential(_SECONDS_PER_DAY, len(replayed)).astype(np.int64)
    replayed, replayed_at = replayed[replayed_at < end], replayed_at[replayed_at < end]
    liked = np.flatnonzero(rng.random(len(listeners)) < 1 / (1 + np.exp(3 - liking)))
    liked_at = np.minimum(found_at[liked] + rng.integers(20, 240, len(liked)), end - 1)

    skippers, skipped = taste.sample_pairs(_n_pairs(taste, _SKIPPED_PER_LISTENER), liking=-0.5, stream=_SKIPPED)
    unsought = ~np.isin(skippers * np.int64(taste.n_items) + skipped, listeners * np.int64(taste.n_items) + tracks)
    skippers, skipped = skippers[unsought], skipped[unsought]

    who = np.concatenate([listeners, listeners[replayed], listeners[liked], skippers])
    what = np.concatenate([tracks, tracks[replayed], tracks[liked], skipped])
    when = np.concatenate([found_at, replayed_at, liked_at, _moments(len(skippers), n_days, rng)])
    action = np.repeat(["play", "like", "skip"], [len(listeners) + len(replayed), len(liked), len(skippers)])
    plays = np.where(action == "play", 1 + rng.poisson(0.2, len(who)), 1)

    entries = []
    for number, event in enumerate(np.argsort(when, kind="stable")):
        source = _APP if rng.random() < 0.6 else _WEB
        record = {
            "event_id": f"e{number:07d}",
            "listener": listener_ids[who[event]],
            "track": track_ids[what[event]],
            "action": str(action[event]),
            "plays": str(plays[event]),
            "at": _time_text(int(when[event]), source),
            "agent": _AGENTS[source][int(rng.integers(len(_AGENTS[source])))],
        }
        entries.append(Entry(record, int(when[event]) // _SECONDS_PER_DAY, source, float(when[event])))
    models = [
        Entry(
            {**entry.record, "event_id": f"e{len(entries) + number:07d}"},
            entry.day,
            entry.source,
            entry.second,
        )
        for number, entry in enumerate(entries)
    ]
    messy = MessyLog(EVENT_COLUMNS, n_days, rng)
    messy.add_good(entries, ("listener", "track"))
    messy.add_flawed(models, _EVENT_FLAWS)
    messy.add_broken(models, _BROKEN_SHARE)
    return messy


def rating_log(
    taste: PlantedTaste, listener_ids: list[str], track_ids: list[str], n_days: int, rng: np.random.Generator
) -> MessyLog:
    """Return the log of star ratings (`PlantedTaste.stars`), at most one for each listener and track."""
    listeners, tracks = taste.sample_pairs(_n_pairs(taste, _RATED_PER_LISTENER), liking=0.3, stream=_RATED)
    stars = taste.stars(listeners, tracks)
    when = _moments(len(listeners), n_days, rng)
    entries = []
    for rating in np.argsort(when, kind="stable"):
        record = {
            "listener": listener_ids[listeners[rating]],
            "track": track_ids[tracks[rating]],
            "stars": f"{stars[rating]:.1f}",
            "rated_at": _time_text(int(when[rating]), _APP),
        }
        entries.append(Entry(record, int(when[rating]) // _SECONDS_PER_DAY, _STARS, float(when[rating])))
    messy = MessyLog(RATING_COLUMNS, n_days, rng)
    messy.add_good(entries, ("listener", "track"))
    messy.add_flawed(entries, _RATING_FLAWS)
    messy.add_broken(entries, _BROKEN_SHARE)
    return messy


def _n_pairs(taste: PlantedTaste, per_listener: int) -> int:
    return taste.n_users * max(1, min(per_listener, taste.n_items // 5))


def _moments(count: int, n_days: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Seconds since the first day began: any day alike, most of them in the evening."""
    hours = rng.normal(19.0, 3.5, count) % 24
    return rng.integers(n_days, size=count) * _SECONDS_PER_DAY + (hours * 3600).astype(np.int64)


def _time_text(second: int, source: str) -> str:
    """The app writes ISO 8601 with its zone, the web player a plain date and time that is UTC."""
    text = str(START + np.timedelta64(second, "s"))
    return f"{text}Z" if source == _APP else text.replace("T", " ")
