"""Rankings are judged as a slow reading of the tables judges them: splits, masks, lists, metrics, intervals, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.models.fit import fit_als
from factorlake.pipelines.context import JobResult
from factorlake.pipelines.evaluate_tables import recommended_items
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.rivals import table_names
from tests.pipelines.judged_lake import (
    COLD,
    ITEMS,
    USERS,
    JudgedLake,
    K,
    figures,
    new_lake,
    rows_of,
    truth_of,
    write_table,
)
from tests.reference.judging import (
    Ratings,
    best,
    implicit_row,
    item_neighbours,
    neighbour_scores,
    popularity_lists,
    ratings_of,
)
from tests.reference.ranking import interval, judge

pytestmark = pytest.mark.spark
# Sums of the same float64 numbers in another order.
ORDER_OF_SUMS = 1e-12
METRICS = ("ndcg", "recall", "recall_min", "precision", "map", "mrr", "hit", "novelty", "popularity_lift")


@dataclass(frozen=True)
class ByTime:
    """The model judged by time once, beside tables handed in; and who had to be found, by the log."""

    result: JobResult
    rows: pd.DataFrame
    known: Ratings
    truth: dict[str, set[str]]
    lists: dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> JudgedLake:
    return new_lake(spark, str(tmp_path_factory.mktemp("judged") / "lake"))


@pytest.fixture(scope="module")
def by_time(lake: JudgedLake, tmp_path_factory: pytest.TempPathFactory) -> ByTime:
    known = lake.ratings(known=True)
    truth = truth_of(lake.ratings(known=False), known)
    lists = {
        "model": model_lists(lake, known, sorted(truth), K),
        "popularity": popularity_lists(known, truth, K),
        "neighbours": neighbour_lists(known, sorted(truth), 5, K),
    }
    # Known items in between are dropped and ranks close up; what follows the list does not count.
    longer = {
        user: list(dict.fromkeys([*known[user], *items, *ITEMS]))[: len(known[user]) + K + 3]
        for user, items in lists["model"].items()
    }
    perfect = {user: [*sorted(items), *(i for i in ITEMS if i not in items)] for user, items in truth.items()}
    scores = rows_of(perfect).assign(score=lambda rows: 100.0 - rows["rank"]).drop(columns="rank")
    folder, context = tmp_path_factory.mktemp("tables"), lake.context
    tables = {
        "ours": write_table(context, folder / "ours", rows_of(longer)),
        "perfect": write_table(context, folder / "perfect.parquet", scores),
        "known_only": write_table(context, folder / "seen.csv", rows_of({u: list(of) for u, of in known.items()})),
    }
    others = {"recommendations": list(tables.values()), "names": list(tables)}
    return ByTime(*lake.judge(others=others), known, truth, lists)


def model_lists(lake: JudgedLake, known: Ratings, users: Sequence[str], k: int) -> dict[str, list[str]]:
    """The lists of the trained item factors, users solved by NumPy."""
    items = {item: factor for item, (factor, _) in lake.item_factors().items()}
    settings = lake.context.settings.train.model_dump()
    lists = {}
    for user in users:
        factor = implicit_row(known[user], items, len(items), settings).astype(np.float32).astype(np.float64)
        scores = {item: float(np.float32(factor @ row)) for item, row in items.items()}
        lists[user] = best(scores, known[user], k)
    return lists


def neighbour_lists(known: Ratings, users: Sequence[str], n: int, k: int) -> dict[str, list[str]]:
    near = item_neighbours(known, n)
    return {user: best(neighbour_scores(known, user, near), known[user], k) for user in users}


def assert_judged(
    told: Mapping[tuple[str, str], tuple[float, float, float, int]],
    name: str,
    lists: Mapping[str, Sequence[str]],
    truth: Mapping[str, set[str]],
    known: Ratings,
    only: Sequence[str] | None = None,
) -> None:
    had = {user: set(items) for user, items in known.items()}
    by_user = judge(lists, truth, had, K)
    for metric in only or [f"{one}@{K}" for one in METRICS]:
        values = [of[metric] for user, of in by_user.items() if metric in of]
        expected = interval(values)
        np.testing.assert_allclose(
            told[name, metric][:3], [one if np.isfinite(one) else np.nan for one in expected[:3]],
            rtol=ORDER_OF_SUMS, atol=ORDER_OF_SUMS, err_msg=f"{name} {metric}",
        )  # fmt: skip
        assert told[name, metric][3] == expected[3]


def test_a_split_by_time_is_judged_as_the_tables_say(by_time: ByTime) -> None:
    counts, truth = by_time.result.counts, by_time.truth
    assert by_time.result.exit_code == 0
    assert counts["judged_users"] == len(truth)
    assert counts["held_out_pairs"] == sum(len(items) for items in truth.values())
    assert counts["cold_users"] == len(COLD)
    told = figures(by_time.rows)
    catalogue = {item for pairs in (by_time.known, truth) for items in pairs.values() for item in items}
    for name, of in by_time.lists.items():
        assert_judged(told, name, of, truth, by_time.known)
        listed = {item for items in of.values() for item in items}
        assert told[name, f"coverage@{K}"][0] == len(listed) / len(catalogue)
    # What everyone lists differs, or nothing would be compared.
    assert len({str(of) for of in by_time.lists.values()}) == 3
    assert set(by_time.rows["split"]) == {"time"}
    metrics = by_time.result.details["metrics"]
    assert metrics[f"ndcg@{K}"] == told["model", f"ndcg@{K}"][0]
    assert metrics["judged_users:time"] == len(truth)


def test_differences_are_paired_by_user(by_time: ByTime) -> None:
    had = {user: set(items) for user, items in by_time.known.items()}
    own, other = (judge(by_time.lists[name], by_time.truth, had, K) for name in ("model", "popularity"))
    for metric in (f"ndcg@{K}", f"recall@{K}"):
        expected = interval([own[user][metric] - other[user][metric] for user in by_time.truth])
        told = figures(by_time.rows)["difference:popularity", metric]
        np.testing.assert_allclose(told, expected, rtol=ORDER_OF_SUMS, atol=ORDER_OF_SUMS)


def test_our_own_lists_handed_in_differ_by_nothing(by_time: ByTime) -> None:
    told = figures(by_time.rows)
    for metric in (f"ndcg@{K}", f"recall@{K}"):
        assert told["difference:ours", metric][:3] == (0.0, 0.0, 0.0)
        assert told["difference:known_only", metric][0] == told["model", metric][0]
    assert_judged(told, "ours", by_time.lists["model"], by_time.truth, by_time.known)
    assert told["perfect", f"ndcg@{K}"][:3] == pytest.approx((1, 1, 1), abs=1e-15)
    for metric in ("hit", "coverage"):
        assert told["known_only", f"{metric}@{K}"][:3] == (0, 0, 0)
    assert ("known_only", f"novelty@{K}") not in told


def test_slices_are_those_of_the_users_and_items(by_time: ByTime) -> None:
    truth = by_time.truth
    segment = {user: ("north", "süd", None)[place % 3] for place, user in enumerate(USERS)}
    category = {item: ("rock", "jazz")[place % 2] if place % 5 else None for place, item in enumerate(ITEMS)}
    n_known = {user: len(by_time.known[user]) for user in truth}
    numbers = list(n_known.values())
    decile = {
        user: 1 + 10 * (2 * sum(m < n for m in numbers) + numbers.count(n)) // (2 * len(truth))
        for user, n in n_known.items()
    }
    parts = {f"segment={name}": {u for u in truth if segment[u] == name} for name in ("north", "süd")}
    parts |= {f"activity={number}": {u for u in truth if decile[u] == number} for number in set(decile.values())}
    assert len(parts) > 8
    names = ("model", "popularity")
    for part, users in parts.items():
        of_part = {user: items for user, items in truth.items() if user in users}
        for name in names:
            told = figures(by_time.rows, part)
            assert_judged(told, name, by_time.lists[name], of_part, by_time.known, [f"ndcg@{K}", f"recall@{K}"])
    for name in names:
        for kind in ("rock", "jazz"):
            recalls = []
            for user, items in truth.items():
                asked = {item for item in items if category[item] == kind}
                if asked:
                    recalls.append(len(asked & set(by_time.lists[name][user])) / len(asked))
            of_kind = figures(by_time.rows, f"category={kind}")[name, f"recall@{K}"]
            np.testing.assert_allclose(of_kind, interval(recalls), rtol=ORDER_OF_SUMS, atol=ORDER_OF_SUMS)
    assert set(by_time.rows["slice"].dropna()) == {*parts, "category=rock", "category=jazz", "cold"}


def test_cold_users_are_judged_apart(lake: JudgedLake, by_time: ByTime) -> None:
    truth = truth_of(lake.ratings(known=False), by_time.known, warm=False)
    assert set(truth) == set(COLD)
    told = figures(by_time.rows, "cold")
    only = [f"{one}@{K}" for one in METRICS if one != "popularity_lift"]
    assert_judged(told, "popularity", popularity_lists(by_time.known, truth, K), truth, by_time.known, only)
    assert ("popularity", f"popularity_lift@{K}") not in told
    # A table may answer cold users; these name none.
    assert told["ours", f"hit@{K}"][0] == 0
    assert {name for name, _ in told} == {"popularity", "ours", "perfect", "known_only"}


def test_each_users_last_items_are_held_out_and_the_model_learns_the_rest(lake: JudgedLake) -> None:
    result, rows = lake.judge(split="last_n", last_n=2)
    known_rows, held_rows = [], []
    for user in USERS:
        own = sorted(((slot, item, value) for u, item, value, slot in lake.log if u == user), reverse=True)
        cut = min(2, len(own) - 1)
        held_rows += [(user, item, value) for _, item, value in own[:cut]]
        known_rows += [(user, item, value) for _, item, value in own[cut:]]
    known = ratings_of(known_rows)
    truth = truth_of(ratings_of(held_rows), known)
    told = figures(rows)
    assert_judged(told, "popularity", popularity_lists(known, truth, K), truth, known)
    assert_judged(told, "neighbours", neighbour_lists(known, sorted(truth), 5, K), truth, known)
    # The same training on one machine, of the pairs that are left.
    users, items, values = (list(column) for column in zip(*known_rows, strict=True))
    fitted = fit_als(users, items, np.array(values, np.float32), als_parameters(lake.context.settings))
    positions, _ = fitted.recommend(K)
    lists = {
        user: [fitted.item_ids[at] for at in of if at >= 0]
        for user, of in zip(fitted.user_ids, positions.tolist(), strict=True)
    }
    assert_judged(told, "model", lists, truth, known)
    assert result.counts["cold_users"] == 0


def test_held_out_pairs_may_be_handed_in_under_any_column_names(lake: JudgedLake, tmp_path: Path) -> None:
    held_rows = [(u, i, v) for u, i, v, slot in lake.log if slot % 3 == 0 and u not in COLD]
    known = ratings_of((u, i, v) for u, i, v, slot in lake.log if slot % 3 or u in COLD)
    truth = truth_of(ratings_of(held_rows), known)
    frame = pd.DataFrame(held_rows, columns=["who", "what", "stars"])
    path = write_table(lake.context, tmp_path / "held.csv", frame)
    columns = {"user_id": "who", "item_id": "what", "value": "stars"}
    given: dict[str, Any] = {"split": "given", "held_out": path, "columns": columns, "neighbours": 0}
    _, rows = lake.judge(**given)
    told = figures(rows)
    assert_judged(told, "popularity", popularity_lists(known, truth, K), truth, known)
    assert {name for name, _ in told} == {"model", "popularity", "difference:popularity"}
    # The same table again is judged already; another under the same name is not.
    assert lake.judge(**given)[0].exit_code == 99
    write_table(lake.context, tmp_path / "held.csv", frame.iloc[:-9])
    assert lake.judge(**given)[0].exit_code == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"user": ["a"], "item_id": ["b"], "rank": [1]}, "no column user_id.*evaluate.columns"),
        ({"user_id": ["a"], "item_id": ["b"]}, "neither a column rank nor score"),
        ({"user_id": ["007"] * 2, "item_id": ["1"] * 2, "rank": [1, 2]}, "1 pairs.*more than once"),
        ({"user_id": ["007", None], "item_id": ["1", "2"], "rank": [1, 2]}, "in 1 of 2 rows one of"),
        ({"user_id": ["007"], "item_id": ["1"], "score": [np.inf]}, "in 1 of 1 rows one of"),
        ({"user_id": ["007"], "item_id": [True], "score": [1.0]}, "ids are text or numbers"),
        ({"user_id": [], "item_id": [], "score": []}, "has no rows|ids are text or numbers"),
        (None, "is no Delta table and neither Parquet nor CSV"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(
    lake: JudgedLake, tmp_path: Path, rows: dict[str, list] | None, says: str
) -> None:
    path = tmp_path / "lists.parquet"
    if rows is not None:
        pd.DataFrame(rows).to_parquet(path)
    with pytest.raises(ConfigError if rows is None else DataRefusedError, match=says):
        recommended_items(lake.context, str(path), scores_wanted=False)


def test_a_table_of_other_users_is_refused_before_anything_is_trained(lake: JudgedLake, tmp_path: Path) -> None:
    rows = pd.DataFrame({"user_id": ["nobody"], "item_id": ["1"], "rank": [1]})
    path = write_table(lake.context, tmp_path / "lists.parquet", rows)
    with pytest.raises(DataRefusedError, match="are its ids written as in the log"):
        lake.judge(others={"recommendations": [path]}, split="hash")


def test_ids_that_passed_through_numbers_are_those_of_the_log(lake: JudgedLake, tmp_path: Path) -> None:
    rows = pd.DataFrame({"user_id": [7, 7], "item_id": [3.0, 4.5], "score": [1.5, 2.5]})
    path = write_table(lake.context, tmp_path / "lists.parquet", rows)
    found = recommended_items(lake.context, path, scores_wanted=False).orderBy("place").collect()
    assert [tuple(row) for row in found] == [("7", "4.5", -2.5, 2.5), ("7", "3", -1.5, 1.5)]


def test_tables_are_named_by_their_files_unless_a_name_is_given() -> None:
    assert table_names(["a/lists.parquet", "b/my lists v2.csv", "c/123"], ["ours"]) == [
        "ours",
        "my_lists_v2",
        "table_3",
    ]
    for names, says in ((["model"], "is taken"), (["a b"], "must be letters"), (["a", "b"], "2 names are given for 1")):
        with pytest.raises(ConfigError, match=says):
            table_names(["x"], names)
