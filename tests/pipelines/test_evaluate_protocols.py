"""Ranking among given candidates, calibrated scores, and pyspark.ml's model through the same judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from factorlake.config.loader import build
from factorlake.errors import ModelRefusedError
from factorlake.evaluation.calibration import Calibration
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines import publish, recommend, train
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.judged_calibration import calibrate
from factorlake.pipelines.judging import Measured, Part, Task
from factorlake.pipelines.report import build_report
from factorlake.pipelines.rivals_pyspark import pyspark_ml, spark_parameters
from factorlake.reporting.content import CalibrationCurve
from tests.pipelines.judged_lake import ITEMS, JudgedLake, K, figures, new_lake, rows_of, truth_of, write_table
from tests.reference.contents import read_table
from tests.reference.judging import best, counts_of, item_neighbours, neighbour_scores
from tests.reference.ranking import interval, sampled

ORDER_OF_SUMS = 1e-12
AMONG = (f"hit@{K}", f"ndcg@{K}", f"mrr@{K}")


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> JudgedLake:
    return new_lake(spark, str(tmp_path_factory.mktemp("protocols") / "lake"))


@pytest.mark.spark
def test_held_out_items_are_ranked_among_the_candidates_of_their_user(lake: JudgedLake, tmp_path: Path) -> None:
    known = lake.ratings(known=True)
    truth = truth_of(lake.ratings(known=False), known)
    rng = np.random.default_rng(5)
    without = sorted(truth)[0]
    candidates = {
        user: set(rng.permutation([i for i in ITEMS if i not in known[user] and i not in truth[user]])[:6].tolist())
        for user in truth
        if user != without
    }
    truth = {user: items for user, items in truth.items() if user != without}
    # One candidate first, the held-out items next, then the others.
    placed = {user: [sorted(among)[0], *sorted(truth[user]), *sorted(among)[1:]] for user, among in candidates.items()}
    # Known and held-out items that stand among the candidates take no part as such.
    rows = [(u, i) for u, among in candidates.items() for i in (*among, *truth[u], next(iter(known[u])))]
    among_path = write_table(lake.context, tmp_path / "among.csv", pd.DataFrame(rows, columns=["user_id", "item_id"]))
    lists_path = write_table(lake.context, tmp_path / "placed.parquet", rows_of(placed))
    result, judged = lake.judge(candidates=among_path, others={"recommendations": [lists_path]})
    assert set(judged["split"]) == {"time_sampled"}
    assert result.counts["judged_users"] == len(truth)
    assert result.counts["users_without_candidates"] == 1 + len(
        [u for u in lake.ratings(known=False) if u not in known]
    )
    near, counts = item_neighbours(known, 5), counts_of(known)
    told = figures(judged)
    for name, scores in {
        "popularity": {user: {item: float(counts.get(item, 0)) for item in ITEMS} for user in truth},
        "neighbours": {user: neighbour_scores(known, user, near) for user in truth},
        "placed": {user: {item: -float(rank) for rank, item in enumerate(items)} for user, items in placed.items()},
    }.items():
        by_user = [
            sampled({item: scores[user].get(item, -np.inf) for item in candidates[user] | truth[user]}, truth[user], K)
            for user in truth
        ]
        for metric in AMONG:
            expected = interval([of[metric] for of in by_user])
            np.testing.assert_allclose(told[name, metric], expected, atol=ORDER_OF_SUMS, err_msg=f"{name} {metric}")
    # By hand: of one held-out item in the second place.
    assert told["placed", f"mrr@{K}"][:3] == (0.5, 0.5, 0.5)
    single = [user for user, items in truth.items() if len(items) == 1]
    assert single
    assert sampled({"a": 3.0, "b": 2.0, "c": 1.0}, {"b"}, K)[f"ndcg@{K}"] == 1 / np.log2(3)
    # Everyone ranks the same few items: nobody covers anything.
    assert {metric for _, metric in told} == set(AMONG)


@pytest.mark.spark
def test_a_calibrated_model_tells_probabilities(lake: JudgedLake) -> None:
    context = lake.context
    assert recommend.run(context).exit_code == 0
    version = lake.model()["model_version"]
    lists = read_table(context.lake.candidate(version, "lists")).to_pandas()
    assert lists["probability"].isna().all()
    result, rows = lake.judge(calibration=True, neighbours=0)
    row = read_table(context.lake.own("calibrations")).to_pylist()[0]
    assert (row["model_version"], row["split"], result.versions["calibrations"]) == (version, "time", 1)
    told = figures(rows)
    listed = row["n"]
    assert listed == K * result.counts["judged_users"]
    page = build_report(context, result, [])
    assert page.calibration == CalibrationCurve("time", tuple(row["scores"]), tuple(row["probabilities"]), listed)
    # Other judgements of this model stand under splits of their own.
    slices, whole = ([part for part in of if part.split == "time"] for of in (page.slices, page.evaluation))
    assert {(part.name, part.metric): part.value for part in slices if part.slice == "segment=north"} == {
        key: figure[0] for key, figure in figures(rows, "segment=north").items() if not key[0].startswith("diff")
    }
    assert {part.slice for part in slices} == set(rows["slice"].dropna())
    assert {(part.name, part.metric) for part in whole} == {key for key in told if "diff" not in key[0]}
    assert 0 <= told["model", f"ece@{K}"][0] < told["model", f"ece_of_scores@{K}"][0]
    assert 0 < told["model", f"brier@{K}"][1] < told["model", f"brier@{K}"][0] < 0.5
    # The lists are made anew, since what decides on them has changed, and then stand.
    assert recommend.run(context).exit_code == 0
    assert recommend.run(context).exit_code == 99
    lists = read_table(context.lake.candidate(version, "lists")).to_pandas()
    by_model = lists["source"] == "model"
    assert by_model.any()
    curve = Calibration.from_lists(row["scores"], row["probabilities"])
    expected = curve.apply(lists.loc[by_model, "score"].to_numpy()).astype(np.float32)
    assert np.array_equal(lists.loc[by_model, "probability"].to_numpy(np.float32), expected)
    assert lists.loc[~by_model, "probability"].isna().all()
    assert lists.loc[by_model, "probability"].between(0, 1).all()


@pytest.mark.spark
def test_scores_as_they_are_count_as_probabilities_kept_between_zero_and_one(spark: SparkSession) -> None:
    users = [f"u{n}" for n in range(12)]
    lists = [(user, "a", 2.0, "model") for user in users] + [(user, "b", 9.0, "popularity") for user in users]
    frame = spark.createDataFrame(lists, "user_id string, item_id string, score double, source string")
    truth = spark.createDataFrame([(user, "a") for user in users[:3]], "user_id string, item_id string")
    found = calibrate(frame, truth, 2)
    assert found is not None
    # Twelve items listed as certain, of which three hit.
    assert found.figures[Measured("model", "ece_of_scores@2")].value == 0.75
    assert found.figures[Measured("model", "ece@2")].value < 0.75


@pytest.mark.spark
def test_pyspark_mls_lists_are_the_best_of_its_own_factors_without_what_is_known(
    spark: SparkSession, lake: JudgedLake
) -> None:
    known = lake.ratings(known=True)
    truth = truth_of(lake.ratings(known=False), known)
    schema = "user_id string, item_id string, value double"

    def frame(rows: list[tuple[str, str, float]]):  # type: ignore[no-untyped-def]
        return spark.createDataFrame(rows, schema)

    learnt = frame([(u, i, v) for u, of in known.items() for i, v in of.items()])
    part = Part(
        frame([(u, i, v) for u in truth for i, v in known[u].items()]),
        frame([(u, i, 1.0) for u, items in truth.items() for i in items]),
        None,
    )
    told: list[str] = []
    peer = pyspark_ml(replace(lake.context, progress=told.append), Task(learnt, part, None, 8, {}))
    ids = {row["item"]: row["item_id"] for row in peer.items.collect()}
    items = {ids[row["id"]]: np.array(row["features"]) for row in peer.model.itemFactors.collect()}
    users = {row["user"]: row["user_id"] for row in peer.users.collect()}
    found: dict[str, list[str]] = {}
    for row in peer.lists(part, K).orderBy("user_id", "rank").collect():
        found.setdefault(row["user_id"], []).append(row["item_id"])
    assert set(found) == set(truth)
    for row in peer.model.userFactors.collect():
        user = users[row["id"]]
        if user in found:
            scores = {item: float(np.array(row["features"]) @ factor) for item, factor in items.items()}
            assert found[user] == best(scores, known[user], K)
    scores = {(row["user_id"], row["item_id"]): row["score"] for row in peer.scores(part).collect()}
    assert set(scores) == {(user, item) for user, items_of in truth.items() for item in items_of if item in items}
    peer.release()
    assert told == [
        "pyspark_ml: training with its defaults at the same rank: there is no exact mapping of these settings"
    ]


@pytest.mark.spark
def test_the_live_model_is_judged_as_it_was_as_a_candidate_and_the_gate_goes_by_the_difference(
    spark: SparkSession, lake_root: str
) -> None:
    lake = new_lake(spark, lake_root)
    _, rows = lake.judge(neighbours=0)
    first, version = figures(rows), lake.model()["model_version"]
    assert recommend.run(lake.context).exit_code == 0
    assert publish.run(lake.context).exit_code == 0
    settings = lake.context.settings
    worse = build({**settings.model_dump(by_alias=True, mode="json"), "seed": 8, "train": {
        **settings.train.model_dump(mode="json"), "rank": 1, "epochs": 1,
    }})  # fmt: skip
    other = JudgedLake(replace(lake.context, settings=worse), lake.log)
    assert train.run(other.context).exit_code == 0
    result, rows = other.judge(neighbours=0)
    told, metrics = figures(rows), result.details["metrics"]
    for (name, metric), expected in first.items():
        if name == "model":
            assert told["live", metric] == expected
    gain = told["difference:live", f"ndcg@{K}"]
    assert (metrics[f"gain_over:{version}:mean"], metrics[f"gain_over:{version}:lower"]) == gain[:2]
    assert gain[0] == pytest.approx(told["model", f"ndcg@{K}"][0] - first["model", f"ndcg@{K}"][0], abs=ORDER_OF_SUMS)
    # One factor after one epoch finds less than four after four.
    assert gain[1] < -settings.evaluate.margin
    assert recommend.run(other.context).exit_code == 0
    with pytest.raises(ModelRefusedError, match="is worse than the live"):
        publish.run(other.context)


def settings_of(**train: object) -> AlsParameters:
    return als_parameters(build({"train": train}))


def test_settings_that_spark_has_words_for_are_mapped_and_others_not() -> None:
    common = {"rank": 8, "nonnegative": False}
    explicit = settings_of(objective="explicit", rank=8, biases=False, regularization=0.2, epochs=7)
    assert spark_parameters(explicit, False)[0] == {
        **common, "implicitPrefs": False, "regParam": 0.2, "maxIter": 7
    }  # fmt: skip
    hkv = {"rank": 8, "alpha": 4.0, "unobserved_weight": 1.0, "regularization": 0.2, "epochs": 7}
    found, told = spark_parameters(settings_of(**hkv), False)
    assert found == {**common, "implicitPrefs": True, "alpha": 4.0, "regParam": 0.2, "maxIter": 7}
    assert told == "the same objective: alpha 4, regParam 0.2"
    modern = {"rank": 8, "unobserved_weight": 0.25, "regularization": 0.2, "frequency_offset": 0.0, "epochs": 7}
    found, _ = spark_parameters(settings_of(**modern), True)
    assert found == {**common, "implicitPrefs": True, "alpha": 4.0, "regParam": 1.0, "maxIter": 7}
    for other, ones in (
        (settings_of(objective="explicit", rank=8), False),
        (settings_of(**{**hkv, "frequency_exponent": 0.5}), False),
        (settings_of(**{**hkv, "unobserved_weight": 0.5}), False),
        (settings_of(**{**hkv, "item_regularization": 0.1}), False),
        (settings_of(**modern), False),
        (settings_of(**{**modern, "frequency_offset": None}), True),
        (settings_of(objective="frobenius", nonnegative=True, rank=8), False),
    ):
        found, told = spark_parameters(other, ones)
        assert set(found) == {"rank", "nonnegative", "implicitPrefs"}
        assert "defaults" in told


def test_modern_ials_of_ones_without_an_offset_is_hu_koren_volinsky_in_other_units() -> None:
    """With λ' = λ(1 + α0)/α0 and α = 1/α0 a user's solution for √γ Y is √γ x, γ = 1 + α0."""
    rng = np.random.default_rng(8)
    everything, weight, ridge = rng.normal(size=(30, 4)), 0.25, 0.2
    own = everything[:7]
    x = np.linalg.solve(
        weight * everything.T @ everything + own.T @ own + ridge * 7 * np.eye(4), own.sum(axis=0)
    )  # fmt: skip
    found, _ = spark_parameters(
        settings_of(unobserved_weight=weight, regularization=ridge, frequency_offset=0.0, rank=4), True
    )
    root = np.sqrt(1 + weight)
    theirs, mine = root * everything, root * own
    left = theirs.T @ theirs + found["alpha"] * mine.T @ mine + found["regParam"] * 7 * np.eye(4)
    y = np.linalg.solve(left, (1 + found["alpha"]) * mine.sum(axis=0))
    np.testing.assert_allclose(y, root * x, rtol=1e-12)
