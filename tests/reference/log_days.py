"""Days of a log drawn from a seed, the faults a day can have, and a day's state counted by pandas and NumPy.

A day has a weekly and a random share of its own in everything: how many records, which values, how many copies,
refused and late records, and new users and items that come every day.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from factorlake.quality.states import BatchState, IdCounts, Moments

MICROS = 86_400_000_000
FIRST = 19_723
"""1 January 2024, a Monday, in days since 1970."""
NAMES = {
    "accepted": "accepted",
    "quarantined": "quarantined",
    "duplicate": "duplicates",
    "superseded": "superseded",
}


def clean_day(day: int, seed: int, usual: int) -> pd.DataFrame:
    """A day of about ``usual`` records: user, item (numbers), value, time (microseconds) and verdict."""
    random = np.random.default_rng([seed, day])
    weekend = day % 7 >= 5
    n = int(usual * (0.7 if weekend else 1.0) * np.exp(random.normal(0, 0.06)))
    users, items = 4_000 + 20 * day, 800 + 3 * day
    spread = 1.0 + (0.03 if weekend else 0.0) + random.normal(0, 0.01)
    late = random.random(n) < 0.02 * np.exp(random.normal(0, 0.15))
    verdict = np.full(n, "accepted", dtype=object)
    verdict[random.random(n) < 0.01 * np.exp(random.normal(0, 0.15))] = "quarantined"
    verdict[random.random(n) < 0.005 * np.exp(random.normal(0, 0.15))] = "duplicate"
    return pd.DataFrame(
        {
            "user": (users * random.random(n) ** 2).astype(np.int64),
            "item": (items * random.random(n) ** 2).astype(np.int64),
            "value": np.exp(random.normal(5.0 + random.normal(0, 0.01), spread, n)),
            "time": (FIRST + day) * MICROS
            + (random.random(n) * MICROS).astype(np.int64)
            - late * random.integers(1, 4, n) * MICROS,
            "verdict": verdict,
        }
    )


def with_fault(day: pd.DataFrame, kind: str, rate: float, seed: int) -> pd.DataFrame:
    """The day with a share of its records damaged, chosen at random."""
    random = np.random.default_rng([seed, round(rate * 1e6)])
    hit = random.random(len(day)) < rate
    hit[random.integers(len(day))] = True
    bad = day.copy()
    if kind == "lost records":
        return day[~hit].reset_index(drop=True)
    if kind == "doubled records":
        return pd.concat([day, day[hit].assign(verdict="duplicate")], ignore_index=True)
    if kind == "values in another unit":
        bad.loc[hit, "value"] *= 100
    elif kind == "values 3 sigma away":
        bad.loc[hit, "value"] *= np.exp(3.0)
    elif kind == "times a week ago":
        bad.loc[hit, "time"] -= 7 * MICROS
    elif kind == "times a year ahead":
        bad.loc[hit, "time"] += 365 * MICROS
    elif kind == "a user that floods":
        bad.loc[hit, "user"] = 7
    elif kind == "an item that floods":
        bad.loc[hit, "item"] = 11
    elif kind == "user ids in another format":
        bad.loc[hit, "user"] += 10_000_000
    elif kind == "item ids in a wrong encoding":
        bad.loc[hit, "item"] += 10_000_000
    elif kind == "values that are gone":
        bad.loc[hit, "value"] = np.nan
        bad.loc[hit & (bad["verdict"] == "accepted"), "verdict"] = "quarantined"
    elif kind == "records that break rules":
        bad.loc[hit & (bad["verdict"] == "accepted"), "verdict"] = "quarantined"
    else:
        raise KeyError(kind)
    return bad


def state_of(day: pd.DataFrame, known_users: set[int], known_items: set[int]) -> BatchState:
    """The state of a day, counted another way: one figure after the other, by pandas, from all rows at once."""
    counts = {name: int((day["verdict"] == verdict).sum()) for verdict, name in NAMES.items()}
    events = day[day["verdict"] == "accepted"]
    value = events["value"].to_numpy()
    return BatchState(
        counts={"rows": len(day), **counts, "replaced": 0},
        nulls={"value": int(day.loc[day["verdict"] != "duplicate", "value"].isna().sum())},
        value=Moments(len(value), value.mean(), ((value - value.mean()) ** 2).sum(), value.min(), value.max())
        if len(value)
        else Moments(),
        values=_counted(np.round(16 * np.log2(value)).astype(np.int64) + 2033),
        days=_counted(events["time"].to_numpy() // MICROS),
        ids={
            side: IdCounts(int((~events[side].isin(known)).sum()), _counted(_scattered(events[side].to_numpy())))
            for side, known in (("user", known_users), ("item", known_items))
        },
        first_event=int(events["time"].min()) if len(events) else None,
        last_event=int(events["time"].max()) if len(events) else None,
    )


def _scattered(ids: np.ndarray) -> np.ndarray:
    return (pd.util.hash_array(ids) % np.uint64(256)).astype(np.int64)


def _counted(keys: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(keys, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
