"""From raw log to published lists: what a whole run leaves, by float64 and by readers other than Spark."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb
from tests.reference.contents import lake_contents, read_table

pytestmark = pytest.mark.spark

K = 10
# One rounding to float32 moves a number by at most this share of itself.
ROUNDING = 2.0**-24


def frame_of(run: DemoRun, name: str) -> pd.DataFrame:
    return read_table(run.root / name).to_pandas()


def matrix_of(frame: pd.DataFrame) -> NDArray[np.float64]:
    return np.stack(frame["factor"].to_list()).astype(np.float64)


def model_of(run: DemoRun) -> dict[str, Any]:
    rows = read_table(run.root / "main" / "models").to_pylist()
    return dict(max(rows, key=lambda row: row["recorded_at"]))


def ratings_of(run: DemoRun, train: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each listener's ratings: the weighted values of a pair's events, summed, then sign(r)·log(1 + |r|)."""
    sums: dict[str, dict[str, list[float]]] = {}
    for event in read_table(run.root / "interactions").to_pylist():
        weight = train["event_weights"].get(event["event_type"], 1.0) * event["value"]
        sums.setdefault(event["user_id"], {}).setdefault(event["item_id"], []).append(weight)
    totals = {user: {item: math.fsum(w) for item, w in of.items()} for user, of in sums.items()}
    return {
        user: {item: math.copysign(math.log1p(abs(r)), r) for item, r in of.items() if r != 0}
        for user, of in totals.items()
    }


def test_a_run_on_the_demo_log_ends_well(demo_run: DemoRun) -> None:
    assert demo_run.line["exit_code"] == 0, demo_run.line["reason"]
    assert set(demo_run.line["stages"]) == {
        "ingest", "validate", "attributes", "train", "evaluate", "recommend", "publish"
    }  # fmt: skip


def test_every_record_is_accounted_for_as_it_was_planted(demo_run: DemoRun) -> None:
    planted = json.loads((demo_run.log / "manifest.json").read_text())["events"]
    counts = demo_run.line["counts"]
    assert counts["ingest.records"] == counts["validate.rows"] == planted["records"]
    assert counts["validate.accepted"] == planted["accepted"] == len(frame_of(demo_run, "interactions"))
    assert counts["validate.duplicates"] == planted["duplicates"]
    quarantine = frame_of(demo_run, "quarantine")
    assert counts["validate.quarantined"] == len(quarantine)
    assert quarantine["reasons"].explode().value_counts().to_dict() == planted["quarantined"]


def test_the_trace_names_the_solver_that_ran(demo_run: DemoRun) -> None:
    trace = frame_of(demo_run, "main/training_trace")
    told = set(trace[["state", "solver"]].itertuples(index=False, name=None))
    assert told == {("before", "cg"), ("final", "exact")}


def test_every_listener_has_exactly_k_tracks_and_none_already_heard(demo_run: DemoRun) -> None:
    lists = frame_of(demo_run, "main/recommendations")
    events = frame_of(demo_run, "interactions")
    n_items = len(frame_of(demo_run, "main/item_factors"))
    heard = events.groupby("user_id")["item_id"].agg(set)
    listed = {str(user): of for user, of in lists.sort_values("rank").groupby("user_id")}
    assert set(listed) == set(heard.index)
    for user, of in listed.items():
        n = min(K, n_items - len(heard[user]))
        assert of["rank"].to_list() == list(range(1, n + 1))
        assert of["item_id"].nunique() == n
        assert heard[user].isdisjoint(of["item_id"])


def test_lists_equal_a_brute_force_scoring_of_the_published_factors(demo_run: DemoRun) -> None:
    users, items = frame_of(demo_run, "main/user_factors"), frame_of(demo_run, "main/item_factors")
    x, y = matrix_of(users), matrix_of(items)
    names = items["item_id"].to_numpy()
    heard = frame_of(demo_run, "interactions").groupby("user_id")["item_id"].agg(set)
    lists = frame_of(demo_run, "main/recommendations").sort_values("rank").groupby("user_id")
    n_compared = 0
    for row, user in enumerate(users["user_id"]):
        scores = {name: float(score) for name, score in zip(names, y @ x[row], strict=True) if name not in heard[user]}
        best = sorted(scores, key=lambda name: (-scores[name], name.encode()))
        told = lists.get_group(user)
        # A float32 sum of `rank` products strays by at most rank + 1 roundings of their magnitudes' sum.
        slack = 2 * (x.shape[1] + 1) * ROUNDING * float(np.max(np.abs(y) @ np.abs(x[row])))
        for place, (item, score) in enumerate(zip(told["item_id"], told["score"], strict=True)):
            assert abs(score - scores[item]) <= slack
            # Another item in this place is right only where float32 cannot tell the two apart.
            assert item == best[place] or abs(scores[item] - scores[best[place]]) <= slack
            n_compared += item == best[place]
    assert n_compared > 0.99 * len(frame_of(demo_run, "main/recommendations"))


def test_published_users_solve_their_own_row_systems(demo_run: DemoRun) -> None:
    model = model_of(demo_run)
    train = json.loads(model["settings"])
    users, items = frame_of(demo_run, "main/user_factors"), frame_of(demo_run, "main/item_factors")
    x, y = matrix_of(users), matrix_of(items)
    position = {name: at for at, name in enumerate(items["item_id"])}
    gram = np.frombuffer(model["gram"], np.float64).reshape(model["rank"], model["rank"])
    # Both are float64 sums of the same products: they differ by the order of at most n_items additions.
    np.testing.assert_allclose(gram, y.T @ y, rtol=0, atol=len(y) * 2.0**-52 * np.max(np.diag(gram)))
    ratings = ratings_of(demo_run, train)
    alpha0 = train["unobserved_weight"]
    for row, user in enumerate(users["user_id"]):
        known = {item: r for item, r in ratings[user].items() if item in position}
        weight = (len(known) + alpha0 * model["n_items"]) ** train["frequency_exponent"]
        left = alpha0 * gram + train["regularization"] * weight * np.eye(len(gram))
        right = np.zeros(len(gram))
        for item, r in known.items():
            f = y[position[item]]
            left += abs(r) * np.outer(f, f)
            right += abs(r) * f if r > 0 else 0.0
        residual = np.linalg.norm(left @ x[row] - right)
        # Ratings reach the kernel as float32 and the solution is rounded to it once: no more may be lost.
        size = np.linalg.norm(left, 2) * np.linalg.norm(x[row])
        assert residual <= 4 * ROUNDING * (size + np.linalg.norm(right))
        assert users["n_observed"][row] == len(known)


def test_the_model_finds_more_than_popularity(demo_run: DemoRun) -> None:
    rows = read_table(demo_run.root / "main" / "evaluation").to_pylist()
    ndcg = {row["name"]: row for row in rows if row["metric"] == "ndcg@10" and row["slice"] is None}
    assert ndcg["model"]["lower"] > ndcg["popularity"]["value"]


def test_neither_report_nor_progress_nor_log_names_a_listener(demo_run: DemoRun) -> None:
    page = Path(demo_run.line["report"])
    assert page.suffix == ".html"
    ids = set(frame_of(demo_run, "interactions")["user_id"])
    told = {path.name: path.read_text() for path in page.parent.iterdir() if path.is_file()}
    assert {page.name, page.with_suffix(".json").name} <= set(told)
    for name, text in {**told, "progress, log and result": demo_run.told}.items():
        assert text
        assert [user for user in ids if user in text] == [], name


def test_a_second_run_has_nothing_to_do_and_changes_nothing(spark: SparkSession, demo_run: DemoRun) -> None:
    before = lake_contents(demo_run.root)
    line = run_verb(spark, "run", demo_settings(demo_run.root, demo_run.log))
    assert (line["exit_code"], line["model_version"]) == (99, demo_run.line["model_version"])
    assert lake_contents(demo_run.root) == before


@pytest.mark.parametrize(
    ("name", "key", "number"),
    [
        ("user_factors", "user_id", "norm"),
        ("item_factors", "item_id", "norm"),
        ("recommendations", "item_id", "score"),
    ],
)
def test_readers_other_than_spark_read_the_same_rows(
    spark: SparkSession, demo_run: DemoRun, name: str, key: str, number: str
) -> None:
    path = str(demo_run.root / "main" / name)
    table = DeltaTable(path)
    assert table.protocol().min_reader_version == 1

    def told(frame: pd.DataFrame) -> tuple[int, str, float]:
        # fsum is exact, so the sum of the same numbers is the same number in whatever order they come.
        return len(frame), "".join(sorted(frame[key])), math.fsum(frame[number])

    expected = told(spark.read.format("delta").load(path).select(key, number).toPandas())
    assert expected[0] > 0
    assert told(table.to_pandas(columns=[key, number])) == expected
    assert told(pl.read_delta(path).select(key, number).to_pandas()) == expected
    relation = duckdb.from_arrow(table.to_pyarrow_dataset())
    assert told(relation.select(key, number).df()) == expected
