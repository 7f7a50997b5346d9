"""A lake with a small log of planted tastes and a trained model, to judge; and readers of what judging wrote."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.config.loader import build
from factorlake.pipelines import evaluate, train
from factorlake.pipelines.context import Context, JobResult
from factorlake.tables import delta_io
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS
from tests.reference.contents import read_table
from tests.reference.judging import Ratings, ratings_of

START = datetime(2025, 1, 1, tzinfo=UTC)
SLOTS, SLOTS_OF_DAY = 480, 48
"""The log's times: half hours, each of one pair at most, so that no order is left to ties."""
HELD_DAYS = 2
K = 4
# Ids that look like numbers and are none, of several scripts, and one with what separates columns elsewhere.
USERS = (
    [f"{n:03d}" for n in range(12)] + [f"ü{n}" for n in range(12)] + [f"日本 {n}" for n in range(10)] + ["7", "a|b,c"]
)
ITEMS = [f"{n}" for n in range(10)] + [f"{n:02d}" for n in range(6)] + [f"ñ/{n}" for n in range(8)]
COLD = ("ü0", "003", "日本 1")
"""Users of whom all events are held out by time."""
Attributes = list[dict[str, Any]]


@dataclass(frozen=True)
class JudgedLake:
    """The lake, and its log as rows (user, item, value, slot), each pair once."""

    context: Context
    log: list[tuple[str, str, float, int]]

    def ratings(self, *, known: bool) -> dict[str, dict[str, float]]:
        """The ratings up to the cut-off, or after it."""
        last = max(slot for *_, slot in self.log) - HELD_DAYS * SLOTS_OF_DAY
        return ratings_of((u, i, v) for u, i, v, slot in self.log if (slot <= last) == known)

    def judge(self, *, others: dict[str, Any] | None = None, **settings: Any) -> tuple[JobResult, pd.DataFrame]:
        """Judge the model under evaluate settings; return the result and the rows of the evaluation that came of it."""
        run_id = f"run-{secrets.token_hex(4)}"
        told: list[str] = []
        now = self.context.settings
        chosen = build(
            {**now.model_dump(by_alias=True, mode="json"), "evaluate": {"k": K, "neighbours": 5, **settings}}
        )
        context = replace(self.context, settings=chosen, run_id=run_id, progress=told.append)
        result = evaluate.run(context, **(others or {}))
        result.details["told"] = told
        path = Path(self.context.lake.own("evaluation"))
        rows = read_table(path).to_pandas() if path.exists() else pd.DataFrame(columns=["run_id"])
        return result, rows[rows["run_id"] == run_id]

    def item_factors(self) -> dict[str, tuple[NDArray[np.float64], float]]:
        """The trained items as item → (factor, bias)."""
        rows = read_table(self.context.lake.candidate(self.model()["model_version"], "factors")).to_pylist()
        return {row["id"]: (np.array(row["factor"]), float(row["bias"])) for row in rows if row["side"] == "item"}

    def model(self) -> dict[str, Any]:
        rows = read_table(self.context.lake.own("models")).to_pylist()
        return dict(max(rows, key=lambda row: row["recorded_at"]))


def new_log(seed: int, explicit: bool) -> list[tuple[str, str, float, int]]:
    """Users like one half of the items more than the other; every pair once, every slot once."""
    rng = np.random.default_rng(seed)
    rows = []
    for place, user in enumerate(USERS):
        n = int(rng.integers(4, 15))
        own = rng.permutation(len(ITEMS))
        liked = sorted(own, key=lambda item: (item % 2 != place % 2) + 0.6 * rng.random())[:n]
        for item in liked:
            if explicit:
                value = float(rng.integers(1, 6)) if item % 2 == place % 2 else float(rng.integers(1, 3))
            else:
                # Some like it not; that is known of them, but nothing to be found.
                value = -1.0 if rng.random() < 0.1 else float(rng.integers(1, 4))
            rows.append((user, ITEMS[item], value))
    late = iter(range(SLOTS - 1, 0, -1))
    taken = {place: next(late) for place, (user, *_) in enumerate(rows) if user in COLD}
    free = iter(rng.permutation(SLOTS - len(taken)).tolist())
    return [(*row, taken[place] if place in taken else next(free)) for place, row in enumerate(rows)]


def new_lake(
    spark: SparkSession,
    root: str,
    explicit: bool = False,
    silent: tuple[Attributes, Attributes] = ([], []),
    **train_settings: Any,
) -> JudgedLake:
    """Write a log as accepted events, attributes of some users and items, and train a model on it.

    silent : attributes of users and of items that are not in the log.
    """
    objective = {"objective": "explicit"} if explicit else {"use_value": True, "combine": "sum"}
    of_model = {"rank": 4, "epochs": 4, "holdout_days": HELD_DAYS, **objective, **train_settings}
    settings = build({"root": root, "train": of_model})
    context = Context(spark, settings, Lake.at(root, "main"), "made", lambda _: None, "conf", lambda: 1)
    log = new_log(11, explicit)
    events = [
        {"user_id": user, "item_id": item, "event_type": "event", "value": value, "event_id": str(place),
         "event_time": START + timedelta(days=slot / SLOTS_OF_DAY)}
        for place, (user, item, value, slot) in enumerate(log)
    ]  # fmt: skip
    lake = context.lake
    context.append_rows(events, lake.shared("interactions"), SCHEMAS["interactions"])
    users = [{"id": user, "segment": ("north", "süd", None)[place % 3]} for place, user in enumerate(USERS)]
    items = [
        {"id": item, "category": ("rock", "jazz")[place % 2] if place % 5 else None} for place, item in enumerate(ITEMS)
    ]
    context.append_rows([*users, *silent[0]], lake.shared("user_attributes"), SCHEMAS["user_attributes"])
    context.append_rows([*items, *silent[1]], lake.shared("item_attributes"), SCHEMAS["item_attributes"])
    assert train.run(context).exit_code == 0
    return JudgedLake(context, log)


def figures(rows: pd.DataFrame, part: str | None = None) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    """(name, metric) → (value, lower, upper, n) of a slice, or of everyone."""
    chosen = rows[rows["slice"].isna()] if part is None else rows[rows["slice"] == part]
    columns = chosen[["name", "metric", "value", "lower", "upper", "n"]].itertuples(index=False)
    return {(name, metric): (value, lower, upper, n) for name, metric, value, lower, upper, n in columns}


def write_table(context: Context, path: Path, rows: pd.DataFrame) -> str:
    """Write a table as Delta, as Parquet or as CSV, by the path's ending."""
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        rows.to_csv(path, index=False)
    else:
        context.spark.createDataFrame(rows).write.format("delta").save(str(path))
    assert path.suffix or delta_io.exists(context.spark, str(path))
    return str(path)


def rows_of(lists: dict[str, list[str]]) -> pd.DataFrame:
    """Lists as a table of user, item and rank."""
    told = [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    return pd.DataFrame(told, columns=["user_id", "item_id", "rank"])


def truth_of(held: Ratings, known: Ratings, *, warm: bool = True) -> dict[str, set[str]]:
    """What has to be found: liked, held out, not known; of users of whom something is known, or of the others."""
    found = {
        user: {item for item, value in items.items() if value > 0 and item not in known.get(user, {})}
        for user, items in held.items()
        if (user in known) == warm
    }
    return {user: items for user, items in found.items() if items}
