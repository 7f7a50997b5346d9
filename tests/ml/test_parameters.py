"""The estimator's parameters are pyspark.ml's, with its defaults, setters and getters, and some more."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pyspark.ml.recommendation import ALS as SparkALS
from pyspark.ml.recommendation import ALSModel as SparkALSModel
from pyspark.sql import DataFrame, SparkSession

from factorlake.errors import ConfigError
from factorlake.ml import ALS, ALSModel

pytestmark = pytest.mark.spark

# One value a parameter, each other than the default.
VALUES: dict[str, Any] = {
    "rank": 3,
    "maxIter": 4,
    "regParam": 0.25,
    "numUserBlocks": 5,
    "numItemBlocks": 6,
    "implicitPrefs": True,
    "alpha": 2.5,
    "userCol": "u",
    "itemCol": "i",
    "seed": 11,
    "ratingCol": "r",
    "nonnegative": True,
    "checkpointInterval": 3,
    "intermediateStorageLevel": "DISK_ONLY",
    "finalStorageLevel": "MEMORY_ONLY",
    "coldStartStrategy": "drop",
    "blockSize": 512,
}
MORE: dict[str, Any] = {
    "solver": "exact",
    "unobservedWeight": 0.5,
    "frequencyExponent": 0.5,
    "biases": True,
    "biasRegParam": 2.0,
    "tol": 0.01,
    "plan": "local",
    "workspace": "somewhere",
    "seenFilter": True,
}


def test_every_parameter_of_pyspark_is_there_with_its_default(spark: SparkSession) -> None:
    theirs, ours = SparkALS(), ALS()
    assert set(VALUES) | {"predictionCol"} == {param.name for param in theirs.params}
    for param in theirs.params:
        assert ours.hasParam(param.name)
        # Python's hash of a text, which is pyspark's default seed, differs from process to process.
        if param.name != "seed":
            assert ours.getOrDefault(param.name) == theirs.getOrDefault(param.name), param.name
    assert {param.name for param in ours.params} - {param.name for param in theirs.params} == set(MORE)


@pytest.mark.parametrize("method", ["__init__", "setParams"])
def test_keywords_start_with_those_of_pyspark_and_have_their_defaults(spark: SparkSession, method: str) -> None:
    wanted = list(inspect.signature(getattr(SparkALS, method)).parameters.values())
    found = list(inspect.signature(getattr(ALS, method)).parameters.values())
    assert [(one.name, one.default) for one in found[: len(wanted)]] == [(one.name, one.default) for one in wanted]
    assert {one.name for one in found[len(wanted) :]} == set(MORE)


@pytest.mark.parametrize(("owner", "spark_owner"), [(ALS, SparkALS), (ALSModel, SparkALSModel)])
def test_every_public_name_of_pyspark_is_there(spark: SparkSession, owner: type, spark_owner: type) -> None:
    assert {name for name in dir(spark_owner) if not name.startswith("_")} <= set(dir(owner))


@pytest.mark.parametrize("name", [*VALUES, *MORE])
def test_a_value_set_in_any_way_is_the_value_read(spark: SparkSession, name: str) -> None:
    value = {**VALUES, **MORE}[name]
    upper = name[0].upper() + name[1:]
    by_setter = ALS()
    assert getattr(by_setter, f"set{upper}")(value) is by_setter
    blank = ALS()
    for als in (
        by_setter,
        ALS(**{name: value}),
        ALS().setParams(**{name: value}),
        blank.copy({blank.getParam(name): value}),
    ):
        assert getattr(als, f"get{upper}")() == value
    assert not blank.isSet(name)
    by_setter.clear(by_setter.getParam(name))
    assert not by_setter.isSet(name)


def test_both_numbers_of_blocks_are_set_at_once(spark: SparkSession) -> None:
    als = ALS().setNumBlocks(7)
    assert (als.getNumUserBlocks(), als.getNumItemBlocks()) == (7, 7)


def test_a_copy_has_its_own_values_and_the_same_uid_and_start(spark: SparkSession, ours: ALSModel) -> None:
    als = ALS(rank=4).setInitialModel(ours)
    other = als.copy({als.maxIter: 3})
    other.setRank(5)
    assert (als.getRank(), als.getMaxIter(), other.getRank(), other.getMaxIter()) == (4, 10, 5, 3)
    assert other.uid == als.uid
    assert other.getInitialModel() is ours


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"nonnegative": True, "solver": "cg"}, "leave it at 'auto'"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"maxIter": 0}, "maxIter is 0"),
        ({"regParam": -1.0}, "regularization must be at least 0"),
        ({"implicitPrefs": True, "alpha": 0.0}, "alpha is 0.0"),
        ({"solver": "magic"}, "auto, cg, subspace, exact"),
        ({"plan": "moon"}, "auto, local, broadcast"),
        ({"coldStartStrategy": "guess"}, "'nan' or 'drop'"),
        ({"biases": True, "biasRegParam": 0.0}, "bias_regularization"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_any_work(
    spark: SparkSession, given: dict[str, Any], told: str
) -> None:
    nothing = spark.createDataFrame([], "user int, item int, rating float")
    with pytest.raises(ConfigError, match=told):
        ALS(**given).fit(nothing)


def test_an_estimator_is_saved_and_read_with_all_its_values(spark: SparkSession, tmp_path: Path) -> None:
    als = ALS(**VALUES, **MORE)
    als.save(str(tmp_path / "als"))
    again = ALS.load(str(tmp_path / "als"))
    assert again.uid == als.uid
    assert {p.name: v for p, v in again.extractParamMap().items()} == {
        p.name: v for p, v in als.extractParamMap().items()
    }
    with pytest.raises(Exception, match="ALREADY_EXISTS"):
        als.save(str(tmp_path / "als"))
    als.setRank(9).write().overwrite().save(str(tmp_path / "als"))
    assert ALS.read().load(str(tmp_path / "als")).getRank() == 9


def test_the_model_takes_over_the_estimators_values(spark: SparkSession, small: DataFrame) -> None:
    model = (
        ALS(rank=2, maxIter=1, coldStartStrategy="drop", blockSize=9, seenFilter=True).setPredictionCol("p").fit(small)
    )
    assert (model.getColdStartStrategy(), model.getBlockSize(), model.getSeenFilter()) == ("drop", 9, True)
    assert (model.getUserCol(), model.getItemCol(), model.getPredictionCol()) == ("user", "item", "p")
    for name, value in {"UserCol": "u", "ItemCol": "i", "PredictionCol": "q", "ColdStartStrategy": "nan"}.items():
        assert getattr(getattr(model, f"set{name}")(value), f"get{name}")() == value
    assert model.setBlockSize(4).getBlockSize() == 4
