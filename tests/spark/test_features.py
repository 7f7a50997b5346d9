"""Features from frames of attributes: columns against plain Python, and the same bits in every plan."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from factorlake.errors import DataRefusedError
from factorlake.models.als import train
from factorlake.models.features import Vocabulary
from factorlake.models.fit import pack_ratings
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.prior import Features
from factorlake.spark.exchange import Exchange
from factorlake.spark.features import FeaturePrior, SideFeatures, attribute_texts, learn_vocabulary, texts_print
from factorlake.spark.fold_in import fold_in
from factorlake.spark.item_side import load_items
from factorlake.spark.training import FitFeatures, fit_pairs
from factorlake.types import PlanName
from tests.models.problems import EXPLICIT, MODERN, random_ids

pytestmark = pytest.mark.spark

SCHEMA = "id string, category string, segment string, features map<string,string>"


def frame_of(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    return spark.createDataFrame(rows, SCHEMA)


def drawn_attributes(n: int = 300) -> list[tuple[Any, ...]]:
    """Ids with a category that may hold several values with white space around, a number in most, a rare text with what
    patterns mind, and texts that are numbers to Spark alone, to Python alone, or that are not to be taken for any."""
    rng = np.random.default_rng(4)
    rows: list[tuple[Any, ...]] = []
    for place in range(n):
        kinds = ["rock", "\u3000jazz\ufeff", "folk.", "\t(dub) ", "a\\Eb"]
        genres = "|".join(rng.choice(kinds, rng.integers(0, 3), replace=False))
        more = {"year": f"\u00a0{int(rng.integers(1950, 2020))}\n"} if place % 4 else {}
        more |= {"code": str(place % 50), "spark": f"{place % 40}" + "d" * (place == 7)}
        more["python"] = {8: "1_0", 9: "\u0663"}.get(place, f"{place % 30}")
        if place % 3 == 0:
            more["grade"] = str(place % 6)
        rows.append((f"i{place}", genres or None, None, more))
    return rows


def test_columns_are_what_plain_python_counts(spark: SparkSession) -> None:
    rows = drawn_attributes()
    names = ["category", "year", "grade", "code", "spark", "python"]
    texts = attribute_texts(frame_of(spark, rows).repartition(3), names)
    found = learn_vocabulary(texts, names, "|", 3, 4, ["code"])
    counts = Counter(value.strip(" \t\u3000\ufeff") for _, genres, *_ in rows if genres for value in genres.split("|"))
    wanted = [value for value, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    assert len(wanted) == 5
    assert found.values[0] == tuple(wanted[:3])
    years = [float(more["year"]) for *_, more in rows if "year" in more]
    assert found.edges[1] == tuple(np.percentile(years, [25, 50, 75]).tolist())
    # Two different grades are names, though they look like numbers.
    assert (found.values[2], found.edges[2]) == (("0", "3"), ())
    # So are those that `categories` names, and where one text is none that Spark and Python take for a number.
    assert [len(values) for values in found.values] == [3, 0, 2, 3, 3, 3]
    assert found.kinds()["code"] == "category (values: 3)"
    again = learn_vocabulary(attribute_texts(frame_of(spark, rows[::-1]), names), names, "|", 3, 4, ["code"])
    assert again == found
    # Ids that are not asked for are left out before rows are made: of these one could not be made.
    broken = spark.createDataFrame([("broken", ["?"] * 99)], texts.schema)
    asked = spark.createDataFrame([(one,) for one, *_ in rows], "id string")
    whole = SideFeatures(found, texts.union(broken))
    encoded = {row["id"]: row["factor"] for row in whole.among(asked).rows().collect()}
    assert len(encoded) == len(rows)
    told = [[genres, *(more.get(name) for name in names[1:])] for _, genres, _, more in rows]
    by_hand = found.rows(told)
    assert [encoded[row[0]] for row in rows] == by_hand.tolist()
    years_of = [float(more["year"]) if "year" in more else None for *_, more in rows]
    at = found.columns().index(f"year {found.edges[1][0]:g} to {found.edges[1][1]:g}")
    wanted_years = [year is not None and found.edges[1][0] <= year < found.edges[1][1] for year in years_of]
    assert (by_hand[:, at] == 1).tolist() == wanted_years
    assert [row["id"] for row in whole.without(asked).texts.collect()] == ["broken"]


def test_the_print_of_attributes_sees_every_text_and_no_order(spark: SparkSession) -> None:
    rows: list[tuple[Any, ...]] = [("a", "rock", None, {}), ("b", None, "x", {}), ("c", None, None, {})]
    names = ["category", "segment"]
    prints = [
        texts_print(attribute_texts(frame_of(spark, told), names))
        for told in (
            rows,
            rows[::-1],
            [("a", None, "rock", {}), *rows[1:]],
            [("b", "rock", None, {}), ("a", None, "x", {}), rows[2]],
            rows[:2],
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_an_attribute_that_no_id_has_is_named(spark: SparkSession) -> None:
    texts = attribute_texts(frame_of(spark, drawn_attributes(20)), ["category", "colour"])
    with pytest.raises(DataRefusedError, match="'colour'"):
        learn_vocabulary(texts, ["category", "colour"], "|", 3, 4)


def of_side(spark: SparkSession, ids: list[str], seed: int) -> tuple[SideFeatures, dict[str, list[str | None]]]:
    rng = np.random.default_rng(seed)
    told: dict[str, list[str | None]] = {one: [str(rng.choice(["a", "b", "c"]))] for one in ids if rng.random() < 0.8}
    told["never seen"] = ["a"]
    rows: list[tuple[Any, ...]] = [(one, text[0], None, {}) for one, text in told.items()]
    vocabulary = Vocabulary(("category",), (("c", "a", "b"),), ((),))
    return SideFeatures(vocabulary, attribute_texts(frame_of(spark, rows), ["category"])), told


@dataclass(frozen=True)
class Counting(Vocabulary):
    """Notes how many ids it makes rows of at a time, in a file each time."""

    folder: str = ""

    def rows(self, attributes: Sequence[Sequence[str | None]]) -> NDArray[np.float32]:
        Path(self.folder, uuid.uuid4().hex).write_text(str(len(attributes)))
        return super().rows(attributes)


def test_users_without_pairs_are_streamed_and_are_in_no_group(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    batch, silent = 16, {f"silent{n}": "ab"[n % 2] for n in range(200)}
    factors = rng.standard_normal((4, 3)).astype(np.float32)
    items = spark.createDataFrame(
        [(f"i{n}", row.tolist(), 0.0, 1) for n, row in enumerate(factors)],
        "id string, factor array<float>, bias float, n_observed bigint",
    )
    pairs = spark.createDataFrame(
        [("u", "i0", 1.0), ("u", "i2", 1.0), ("v", "i1", 1.0), ("no attributes", "i3", 1.0)],
        "user_id string, item_id string, value double",
    )
    told: list[tuple[Any, ...]] = [(one, None, kind, {}) for one, kind in {"u": "a", "v": "b", **silent}.items()]
    calls = tmp_path / "calls"
    calls.mkdir()
    vocabulary = Counting(("segment",), (("a", "b"),), ((),), folder=str(calls))
    weights = rng.standard_normal((3, 3)).astype(np.float32)
    features = SideFeatures(vocabulary, attribute_texts(frame_of(spark, told).coalesce(1), ["segment"]))
    parameters = replace(MODERN, rank=3)
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    earlier = spark.conf.get(setting)
    assert earlier
    found = []
    try:
        spark.conf.set(setting, batch)
        with Exchange(spark, str(tmp_path / "exchange")) as exchange:
            loaded = load_items(items, exchange, 0.0, listed=False)
            numbered = pairs.join(loaded.frame.withColumnRenamed("id", "item_id"), on="item_id")
            gram = factors.astype(np.float64).T @ factors.astype(np.float64)
            for answers in (True, False):
                prior = FeaturePrior(features, weights, np.full(3, 0.5), answers)
                rows = fold_in(numbered, loaded.shipped, gram, parameters, 4, 1, prior).collect()
                found.append({row["user_id"]: row for row in rows})
                sizes = [int(one.read_text()) for one in calls.iterdir()]
                # The group has two users with attributes; of the others no more than a batch is at hand.
                assert (sum(sizes), max(sizes) <= batch) == ((202, True) if answers else (204, True))
    finally:
        spark.conf.set(setting, earlier)
    assert set(found[0]) == {"u", "v", "no attributes", *silent}
    assert found[1] == {one: row for one, row in found[0].items() if one not in silent}
    for one, kind in silent.items():
        row = found[0][one]
        wanted = (weights[0].astype(np.float64) + weights["ab".index(kind) + 1]).astype(np.float32)
        assert row["factor"] == wanted.tolist()
        assert (row["n_observed"], row["bias"]) == (0, 0.0)
        assert row["norm"] == pytest.approx(float(np.linalg.norm(wanted)), rel=1e-6)
    assert found[0]["u"]["n_observed"] == 2


@pytest.mark.parametrize(
    ("parameters", "rating", "plans"),
    [
        # The last as on a cluster whose workers do not see the table root.
        (replace(MODERN, rank=8, epochs=2), "one", ("local", "broadcast", "shuffle", "broadcast")),
        (replace(EXPLICIT, rank=6, epochs=2, solver="exact"), "stars", ("shuffle",)),
    ],
)
def test_every_plan_gives_the_bits_of_one_machine(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameters: AlsParameters,
    rating: str,
    plans: tuple[PlanName, ...],
) -> None:
    users, items, values = random_ids(300, 90, 4000, 2, rating)
    packed = pack_ratings(users, items, values, parameters)
    of_users, users_told = of_side(spark, packed.user_ids, 1)
    of_items, items_told = of_side(spark, packed.item_ids, 2)
    with LocalPlan(packed.user_blocks, packed.item_blocks, parameters) as plan:
        held = []
        for ids, own, told in ((packed.user_ids, of_users, users_told), (packed.item_ids, of_items, items_told)):
            own_rows = own.vocabulary.rows([told.get(one, [None]) for one in ids])
            own_rows[[one not in told for one in ids]] = np.nan
            held.append(own_rows)
        wanted = bits(
            train(plan, parameters, features=Features(plan.hold("user", held[0]), plan.hold("item", held[1])))
        )
    rated = [1.0] * len(users) if values is None else [float(one) for one in values]
    pairs = spark.createDataFrame(
        list(zip(users, items, rated, strict=True)), "user_id string, item_id string, value double"
    )
    for place, chosen in enumerate(plans):
        if place == 3:
            monkeypatch.setattr(Exchange, "_workers_see", lambda *_: False)
        progress: list[str] = []
        fitted = fit_pairs(
            spark,
            pairs.repartition(1 + place),
            parameters,
            workspace=str(tmp_path / "model"),
            plan=chosen,
            threads=2,
            progress=progress.append,
            features=FitFeatures(of_users, of_items),
        )
        assert fitted.plan == chosen
        # The plan is chosen with the rows of features in mind.
        assert "0 MiB of features" in progress[0]
        assert bits(fitted.model) == wanted, chosen
        fitted.release()


def bits(model: Any) -> list[Any]:
    weights = [model.user_feature_weights.tobytes(), model.item_feature_weights.tobytes()]
    rows = [model.users.whole().tobytes(), model.items.whole().tobytes()]
    return [*weights, *rows, [row.loss for row in model.trace]]
