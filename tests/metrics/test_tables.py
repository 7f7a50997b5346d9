"""Tables of metrics from anyone's frames, against dictionaries and loops, and what they refuse."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.metrics import compare_rankings, ranking_table, rating_table
from tests.reference import ranking as reference

# Means, spreads and quantiles of at most some hundred figures of order 1, evaluated in two ways. Where all figures are
# equal one way may have a spread of some 1e-17 where the other has none, and its root is what is compared.
ROUNDING = 1e-7
LIB = Path(__file__).resolve().parents[2] / "lib"


def frame(rows: Any, *columns: str) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns))


def pairs(rows: Any) -> pd.DataFrame:
    return frame(rows, "user_id", "item_id")


def ranked(rows: Any) -> pd.DataFrame:
    return frame(rows, "user_id", "item_id", "rank")


def scored(rows: Any) -> pd.DataFrame:
    return frame(rows, "user_id", "item_id", "score")


def cells(table: pd.DataFrame) -> dict[tuple[str, str, str], tuple[float, float, float, int]]:
    assert list(table.columns) == ["name", "metric", "value", "lower", "upper", "n", "slice"]
    rows: Any = table.itertuples(index=False)
    return {(row.name, row.slice, row.metric): (row.value, row.lower, row.upper, row.n) for row in rows}


def slow_cells(
    figures: dict[Any, dict[str, float]], slices: dict[str, set[Any]]
) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    found = {}
    for label, users in slices.items():
        for metric in sorted({metric for user in users for metric in figures[user]}):
            values = [figures[user][metric] for user in figures if user in users and metric in figures[user]]
            found[label, metric] = reference.interval(values)
    return found


def assert_close(found: dict[Any, tuple[float, ...]], wanted: dict[Any, tuple[float, ...]]) -> None:
    assert found.keys() == wanted.keys()
    for key, numbers in wanted.items():
        assert found[key] == pytest.approx(numbers, abs=ROUNDING, rel=ROUNDING), key


def test_a_table_worked_by_hand() -> None:
    lists = ranked([("ann", "x", 1), ("ann", "y", 2), ("bob", "x", 2), ("bob", "z", 1), ("eve", "x", 1)])
    held_out = pairs([("ann", "y"), ("bob", "q"), ("cid", "x")])
    found = cells(ranking_table(lists, held_out, k=2))
    # ann's y is second; bob and cid, who has no list, have no hit; nobody asks for eve.
    ndcg = (1 / math.log2(3)) / 3
    assert found["recommendations", "all", "ndcg@2"][0] == pytest.approx(ndcg, abs=ROUNDING)
    assert found["recommendations", "all", "mrr@2"][0] == pytest.approx(0.5 / 3, abs=ROUNDING)
    assert found["recommendations", "all", "hit@2"][0] == pytest.approx(1 / 3, abs=ROUNDING)
    assert found["recommendations", "all", "precision@2"][0] == pytest.approx(0.5 / 3, abs=ROUNDING)
    assert {row[3] for row in found.values()} == {3}


def test_known_pairs_close_up_lists_and_leave_the_truth() -> None:
    lists = ranked([(1, 10, 1), (1, 11, 2), (1, 12, 3), (2, 10, 1)])
    held_out = pairs([(1, 11), (1, 10), (2, 12)])
    known = pairs([(1, 10), (1, 10), (3, 12)])
    found = cells(ranking_table(lists, held_out, k=1, known=known))
    # User 1's list is 11, 12 and only 11 is asked for; user 2 is not known.
    assert found["recommendations", "all", "recall@1"] == (1.0, -math.inf, math.inf, 1)
    assert found["recommendations", "cold users", "recall@1"][0] == 0.0
    # Of the items 10, 11 and 12 (known or held out), 11 stands first in the list of a known user.
    assert found["recommendations", "all", "coverage@1"][0] == pytest.approx(1 / 3, abs=ROUNDING)
    # 11 was chosen by none of two users, 10 by one: log2 2, and 0 over 1.
    assert found["recommendations", "all", "novelty@1"][0] == 1.0
    assert found["recommendations", "all", "popularity_lift@1"][0] == 0.0
    assert ("recommendations", "cold users", "popularity_lift@1") not in found


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Some users' lists by two recommenders, what was held out and what was known. Scores tie often."""
    users, items = st.integers(0, 7), st.integers(0, 9)
    rows = st.sets(st.tuples(users, items), max_size=30)
    held_out = draw(st.sets(st.tuples(users, items), min_size=1, max_size=20))
    known = draw(st.one_of(st.none(), rows))
    score = st.sampled_from([0.0, 0.5, -1.0])
    return {
        "a": [(*pair, draw(score)) for pair in sorted(draw(rows))],
        "b": [(*pair, draw(score)) for pair in sorted(draw(rows))],
        "held_out": sorted(held_out),
        "known": None if known is None else sorted(known),
        "k": draw(st.integers(1, 5)),
    }


def answer(world: dict[str, Any], **more: Any) -> pd.DataFrame | None:
    known = None if world["known"] is None else pairs(world["known"])
    lists = {"a": scored(world["a"]), "b": scored(world["b"])}
    try:
        return compare_rankings(lists, pairs(world["held_out"]), world["k"], known, **more)
    except DataRefusedError as error:
        assert "no user has a held-out pair" in str(error)
        return None


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_tables_equal_the_definitions_written_as_loops(world: dict[str, Any]) -> None:
    table = answer(world)
    held_out = reference.by_user(world["held_out"])
    known = None if world["known"] is None else reference.by_user(world["known"])
    figures = {
        name: reference.judge(reference.lists_of(world[name], by_rank=False), held_out, known, world["k"])
        for name in ("a", "b")
    }
    assert (table is None) == (not figures["a"])
    if table is None:
        return
    figures["b - a"] = {
        user: {metric: own[metric] - other[metric] for metric in own.keys() & other.keys()}
        for user, own in figures["b"].items()
        for other in [figures["a"][user]]
    }
    judged = set(figures["a"])
    warm = judged if known is None else judged & known.keys()
    slices = {label: users for label, users in {"all": warm, "cold users": judged - warm}.items() if users}
    wanted: dict[Any, tuple[float, ...]] = {}
    for name, of_name in figures.items():
        wanted |= {(name, *key): row for key, row in slow_cells(of_name, slices).items()}
    found: dict[Any, tuple[float, ...]] = dict(cells(table))
    covered = {key: found.pop(key) for key in list(found) if key[2].startswith("coverage")}
    assert_close(found, wanted)
    assert set(covered) == ({(name, "all", f"coverage@{world['k']}") for name in "ab"} if known and warm else set())
    for name, *_ in covered:
        lists = reference.lists_of(world[name], by_rank=False)
        catalogue = {item for _, item in [*world["known"], *world["held_out"]]}
        shown = set()
        for user in warm:
            shown |= set([item for item in lists.get(user, []) if item not in known[user]][: world["k"]])  # type: ignore[index]
        assert covered[name, "all", f"coverage@{world['k']}"][0] == len(shown & catalogue) / len(catalogue)


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_tables_do_not_depend_on_order_of_rows_names_of_ids_or_users_without_truth(
    world: dict[str, Any], random: Any
) -> None:
    table = answer(world)
    if table is None:
        return
    # The new names keep the order of ids, by which ties go.
    names = {number: f"n{number:03d}" for number in range(20)}
    asked = {user for user, _ in world["held_out"]}
    changed = {}
    for key in ("a", "b", "held_out", "known"):
        if world[key] is not None:
            rows = [(f"user {row[0]}", names[row[1]], *row[2:]) for row in world[key]]
            random.shuffle(rows)
            changed[key] = rows
    for key in ("a", "b"):
        changed[key].append(("another user", "n001", 0.5))
    assert "another user" not in asked
    again = answer({"known": None, "k": world["k"]} | changed)
    assert again is not None
    # Not a bit differs: the sums run over users in order of their ids.
    pd.testing.assert_frame_equal(table, again, check_exact=True)


def test_equal_scores_go_by_item_and_equal_ranks_by_nothing() -> None:
    held_out = pairs([(1, "b")])
    by_score = ranking_table(scored([(1, "c", 0.5), (1, "b", 0.5), (1, "d", 0.1)]), held_out, k=1)
    assert cells(by_score)["recommendations", "all", "hit@1"][0] == 1.0
    with pytest.raises(DataRefusedError, match=r"1 ranks .* are given to two items"):
        ranking_table(ranked([(1, "c", 1), (1, "b", 1)]), held_out)


RNG = np.random.default_rng(9)
HELD = sorted({(int(u), int(i)) for u, i in RNG.integers(0, 12, (60, 2))})
KNOWN = sorted({(int(u), int(i)) for u, i in RNG.integers(0, 12, (50, 2)) if u != 3})
SCORES = [(u, i, float(RNG.random())) for u in range(12) for i in range(12) if (u + i) % 3]


@pytest.mark.parametrize(
    "make", [pa.Table.from_pandas, pl.from_pandas, lambda data: data.astype({"user_id": "category"})]
)
def test_frames_of_any_make_give_the_same_table(make: Any) -> None:
    wanted = ranking_table(scored(SCORES), pairs(HELD), 5, pairs(KNOWN))
    found = ranking_table(make(scored(SCORES)), pairs(HELD), 5, make(pairs(KNOWN)))
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


@pytest.mark.parametrize(
    "rename",
    [
        lambda number: uuid.UUID(int=number).bytes,
        lambda number: pd.Timestamp(1_700_000_000 + number, unit="s"),
        lambda number: f"{number:02d}",
        lambda number: np.int16(number),
    ],
)
def test_ids_may_be_of_any_type(rename: Any) -> None:
    def renamed(data: pd.DataFrame) -> pd.DataFrame:
        return data.assign(user_id=data["user_id"].map(rename), item_id=data["item_id"].map(rename))

    wanted = ranking_table(scored(SCORES), pairs(HELD), 5, pairs(KNOWN), "activity")
    found = ranking_table(renamed(scored(SCORES)), renamed(pairs(HELD)), 5, renamed(pairs(KNOWN)), "activity")
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


def test_slices_of_users_are_tables_of_these_users() -> None:
    segments = frame([(u, "gold" if u % 2 else "tin", u % 3) for u in range(10)], "user_id", "segment", "region")
    found = cells(ranking_table(scored(SCORES), pairs(HELD), 5, pairs(KNOWN), segments))
    known_users = {u for u, _ in KNOWN}
    for label, keep in (("segment=gold", lambda u: u % 2 and u < 10), ("region=0", lambda u: u % 3 == 0 and u < 10)):
        some = [(u, i) for u, i in HELD if keep(u) and u in known_users]
        alone = cells(ranking_table(scored(SCORES), pairs(some), 5, pairs(KNOWN)))
        for (name, part, metric), row in alone.items():
            if not metric.startswith("coverage"):
                assert found[name, label, metric] == row, part


def test_slices_of_items_ask_for_these_items_alone() -> None:
    categories = frame([(i, "books" if i < 4 else "films") for i in range(9)], "item_id", "category")
    found = cells(ranking_table(scored(SCORES), pairs(HELD), 5, pairs(KNOWN), categories))
    for label, keep in (("category=books", lambda i: i < 4), ("category=films", lambda i: 4 <= i < 9)):
        alone = cells(ranking_table(scored(SCORES), pairs([(u, i) for u, i in HELD if keep(i)]), 5, pairs(KNOWN)))
        rows = {key[2]: row for key, row in found.items() if key[1] == label}
        assert rows == {key[2]: row for key, row in alone.items() if key[1] == "all" and "coverage" not in key[2]}


def test_slices_by_activity_hold_all_known_users_and_come_in_order() -> None:
    table = ranking_table(scored(SCORES), pairs(HELD), 5, pairs(KNOWN), "activity")
    ndcg = table[table["metric"] == "ndcg@5"].set_index("slice")["n"]
    deciles = [label for label in ndcg.index if label.startswith("activity")]
    assert sum(ndcg[deciles]) == ndcg["all"]
    assert deciles == sorted(deciles, key=lambda label: int(label.partition("=")[2]))


def test_a_difference_is_paired() -> None:
    rows = [(u, i, r) for u in range(40) for r, i in enumerate(RNG.permutation(30)[:5].tolist(), start=1)]
    # The second finds what the first finds and, for every tenth user, one thing more.
    held_out = [(u, i) for u, i, r in rows if (r + u) % 4 == 0]
    better = [(u, 99 if u % 10 == 0 and r == 2 else i, r) for u, i, r in rows]
    table = compare_rankings(
        {"old": ranked(rows), "new": ranked(better)}, pairs([*held_out, *((u, 99) for u in range(40))]), 5
    )
    found = cells(table)
    value, lower, _, n = found["new - old", "all", "hit@5"]
    assert value == pytest.approx(found["new", "all", "hit@5"][0] - found["old", "all", "hit@5"][0], abs=ROUNDING)
    assert n == 40
    # Users differ far more from each other than the two lists do for one user.
    spread = found["new", "all", "ndcg@5"]
    gain = found["new - old", "all", "ndcg@5"]
    assert gain[2] - gain[1] < spread[2] - spread[1]
    assert lower >= 0


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (frame([(1, 2)], "user_id", "item_id"), "no column rank or score; the frame has user_id, item_id"),
        (frame([(1, 2, 3)], "user", "item_id", "rank"), "no column user_id; the frame has user, item_id, rank"),
        (ranked([(1, 2, 0), (1, 3, 1)]), "1, 2, 3 ... without gaps; they go from 0 to 1"),
        (ranked([(1, 2, 2), (1, 3, 3)]), "1, 2, 3 ... without gaps; they go from 2 to 3"),
        (ranked([(1, 2, 37)]), "1, 2, 3 ... without gaps"),
        (ranked([(1, 2, 1.0), (1, 3, 1.5)]), "1, 2, 3 ... without gaps"),
        (ranked([(1, 2, 1), (1, 2, 2)]), "1 pairs of user and item stand in the recommendations twice"),
        (scored([(1, 2, math.nan)]), "1 recommendations have a score that is null or not finite"),
        (scored([(1, 2, "high")]), "score is text; it must be a number"),
        (ranked([(1, None, 1), (1, 3, 2)]), "1 rows of the recommendations have no item_id"),
        (ranked([(1, 2, 1), ("one", 2, 1)]), "user_id holds values of several kinds"),
        (ranked([("1", 2, 1)]), "user_id is text in the recommendations .* and int64 in the held-out pairs"),
        (ranked([(1, [2], 1)]), "ids are text, numbers or other scalars"),
    ],
)
def test_lists_that_cannot_be_judged_are_refused_with_the_way_out(lists: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataRefusedError, match=message):
        ranking_table(lists, pairs([(1, 2)]))


def test_other_frames_are_refused_by_name() -> None:
    lists = ranked([(1, 2, 1)])
    with pytest.raises(DataRefusedError, match=r"1 held-out pairs .* stand there twice"):
        ranking_table(lists, pairs([(1, 2), (1, 2)]))
    with pytest.raises(DataRefusedError, match="the known pairs have no column item_id"):
        ranking_table(lists, pairs([(1, 2)]), known=frame([(1,)], "user_id"))
    with pytest.raises(DataRefusedError, match="no user has a held-out pair"):
        ranking_table(lists, pairs([(1, 2)]), known=pairs([(1, 2)]))
    with pytest.raises(DataRefusedError, match="no user has a held-out pair"):
        ranking_table(lists, pairs([]))
    with pytest.raises(
        ConfigError, match="the held-out pairs: a pandas, Arrow, Polars or Spark frame is needed, got list"
    ):
        ranking_table(lists, [(1, 2)])
    with pytest.raises(ConfigError, match="together with known"):
        ranking_table(lists, pairs([(1, 2)]), slices="activity")
    with pytest.raises(ConfigError, match="k must be"):
        ranking_table(lists, pairs([(1, 2)]), k=0)
    with pytest.raises(ConfigError, match="level"):
        ranking_table(lists, pairs([(1, 2)]), level=95)
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_rankings({}, pairs([(1, 2)]))
    with pytest.raises(DataRefusedError, match="second: 1 ranks"):
        compare_rankings({"first": lists, "second": ranked([(1, 2, 1), (1, 3, 1)])}, pairs([(1, 2)]))


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (frame([(1, 1, "a")], "user_id", "item_id", "label"), "user_id or item_id, one of them"),
        (frame([(1,)], "user_id"), "a column of labels"),
        (frame([(1, 0.5)], "user_id", "label"), "labels are text, whole numbers or booleans"),
        (frame([(1, "a"), (1, "b")], "user_id", "label"), "a user_id stands twice"),
        (frame([("1", "a")], "user_id", "label"), "user_id is int64 in the recommendations .* and text in the slices"),
        (frame([(i, str(i)) for i in range(101)], "item_id", "label"), "101 labels of items are more than 100"),
    ],
)
def test_slices_that_say_nothing_clear_are_refused(slices: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataRefusedError, match=message):
        ranking_table(ranked([(1, 2, 1)]), pairs([(1, 2)]), slices=slices)


def test_no_lists_at_all_are_worth_nothing() -> None:
    found = cells(ranking_table(ranked([]), pairs([(1, 2), (2, 2)]), 3))
    assert {row[0] for row in found.values()} == {0.0}


def test_rating_errors_equal_scikit_learn_where_all_is_predicted() -> None:
    actual = frame([(u, i, float(RNG.integers(1, 6))) for u, i in HELD], "user_id", "item_id", "rating")
    predicted = actual.sample(frac=1, random_state=1).rename(columns={"rating": "prediction"})
    predicted["prediction"] += RNG.normal(size=len(predicted))
    table = rating_table(predicted, actual, name="mine").set_index("metric")
    both = actual.merge(predicted, on=["user_id", "item_id"])
    rmse = root_mean_squared_error(both["rating"], both["prediction"])
    assert table.loc["rmse", "value"] == pytest.approx(rmse, rel=ROUNDING)
    assert table.loc["mae", "value"] == pytest.approx(mean_absolute_error(both["rating"], both["prediction"]))
    assert table.loc["predicted", "value"] == 1.0
    assert set(table["name"]) == {"mine"}
    assert (table["n"] == actual["user_id"].nunique()).all()


def test_what_is_not_predicted_is_left_out_and_told() -> None:
    actual = frame([(1, 1, 4.0), (1, 2, 2.0), (2, 1, 5.0), (3, 3, 1.0)], "user_id", "item_id", "value")
    predicted = frame([(1, 1, 3.0), (1, 2, math.nan), (2, 1, 5.0), (9, 9, 1.0)], "user_id", "item_id", "predicted")
    table = rating_table(predicted, actual).set_index("metric")
    assert table["value"].to_dict() == pytest.approx({"rmse": math.sqrt(0.5), "mae": 0.5, "predicted": 0.5})
    assert table["n"].to_dict() == {"rmse": 2, "mae": 2, "predicted": 3}


def test_ratings_that_cannot_be_judged_are_refused() -> None:
    actual = frame([(1, 1, 4.0)], "user_id", "item_id", "rating")
    predicted = frame([(1, 1, 4.0)], "user_id", "item_id", "prediction")
    with pytest.raises(DataRefusedError, match="no column prediction or predicted"):
        rating_table(actual, actual)
    with pytest.raises(DataRefusedError, match="no column rating or value"):
        rating_table(predicted, predicted)
    with pytest.raises(DataRefusedError, match="twice in the predictions"):
        rating_table(pd.concat([predicted, predicted]), actual)
    with pytest.raises(DataRefusedError, match="do not meet"):
        rating_table(predicted.assign(item_id=2), actual)
    with pytest.raises(DataRefusedError, match="1 ratings are null or not finite"):
        rating_table(predicted, actual.assign(rating=math.inf))
    with pytest.raises(NumericalError, match="inf"):
        rating_table(predicted.assign(prediction=math.inf), actual)


def test_frames_in_memory_need_no_pyspark() -> None:
    program = (
        "import sys; sys.modules['pyspark'] = None\n"
        "import pandas as pd; from factorlake.metrics import ranking_table\n"
        "lists = pd.DataFrame({'user_id': [1], 'item_id': [2], 'rank': [1]})\n"
        "assert ranking_table(lists, lists[['user_id', 'item_id']])['value'].max() == 1.0\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=LIB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_examples_of_the_page_run() -> None:
    page = (LIB.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    examples = [
        body for body in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "factorlake.metrics" in body
    ]
    actual = frame([(1, 1, 4.0), (2, 1, 2.0)], "user_id", "item_id", "rating")
    names: dict[str, Any] = {
        "recommendations": scored(SCORES),
        "ours": scored(SCORES),
        "theirs": scored(SCORES[::2]),
        "held_out": pairs(HELD),
        "known": pairs(KNOWN),
        "actual": actual,
        "predicted": actual.rename(columns={"rating": "prediction"}),
    }
    tables = []
    for example in examples:
        exec(example, names)
        tables.append(set(names["table"]["name"]))
    assert tables == [{"recommendations"}, {"ours", "theirs", "theirs - ours"}, {"predicted"}]
