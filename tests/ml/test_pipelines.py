"""Inside pyspark.ml: Pipeline, CrossValidator, TrainValidationSplit; saved, and read in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import SQLTransformer
from pyspark.ml.tuning import (
    CrossValidator,
    CrossValidatorModel,
    ParamGridBuilder,
    TrainValidationSplit,
    TrainValidationSplitModel,
)
from pyspark.sql import DataFrame

from factorlake.errors import ConfigError
from factorlake.ml import ALS, ALSModel

pytestmark = pytest.mark.spark

EVALUATOR = {"metricName": "rmse", "labelCol": "rating", "predictionCol": "prediction"}

# Nothing of factorlake is imported by name: the saved folders must say all that is needed.
READER = """
import json, sys
import mlflow.spark
from pyspark.ml import PipelineModel
from pyspark.ml.tuning import CrossValidatorModel
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config(
    "spark.sql.shuffle.partitions", "1").getOrCreate()
pairs = spark.createDataFrame([(10, 1), (20, 50), (20, 100000)], "user int, item int")
models = {
    "pipeline": PipelineModel.load(sys.argv[1]),
    "validator": CrossValidatorModel.load(sys.argv[2]),
    "mlflow": mlflow.spark.load_model(sys.argv[3]),
}
found = {
    name: sorted(tuple(row[c] for c in ("user", "item", "prediction")) for row in model.transform(pairs).collect())
    for name, model in models.items()
}
found["rank"] = models["pipeline"].stages[-1].rank
found["listed"] = models["validator"].bestModel.recommendForAllUsers(2).count()
found["grid"] = [sorted((p.name, v) for p, v in one.items()) for one in models["validator"].getEstimatorParamMaps()]
print("found:" + json.dumps(found))
spark.stop()
"""


@pytest.fixture(scope="module")
def pairs(small: DataFrame) -> DataFrame:
    rows = [(10, 1), (20, 50), (20, 100000)]
    return small.sparkSession.createDataFrame(rows, "user int, item int")


@pytest.fixture(scope="module")
def pipeline(small: DataFrame) -> PipelineModel:
    shift = SQLTransformer(statement="SELECT * FROM __THIS__")
    return Pipeline(stages=[shift, ALS(rank=3, maxIter=2, coldStartStrategy="drop")]).fit(small)


@pytest.fixture(scope="module")
def validator(small: DataFrame) -> CrossValidatorModel:
    als = ALS(rank=3, maxIter=2, coldStartStrategy="drop")
    grid = ParamGridBuilder().addGrid(als.regParam, [0.1, 1000.0]).build()
    evaluator = RegressionEvaluator(**EVALUATOR)  # type: ignore[arg-type]
    return CrossValidator(
        estimator=als, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=1, parallelism=2
    ).fit(small)


def triples(frame: DataFrame) -> list[list[Any]]:
    return sorted([row["user"], row["item"], row["prediction"]] for row in frame.collect())


def test_cross_validation_finds_the_ridge_that_is_not_absurd(validator: CrossValidatorModel, small: DataFrame) -> None:
    assert isinstance(validator.bestModel, ALSModel)
    assert validator.avgMetrics[0] < validator.avgMetrics[1]
    again = ALS(rank=3, maxIter=2, regParam=0.1, coldStartStrategy="drop").fit(small)
    assert triples(again.transform(small)) == triples(validator.transform(small))


def test_saved_pipelines_validators_and_mlflow_models_are_read_by_a_new_process(
    pipeline: PipelineModel,
    validator: CrossValidatorModel,
    pairs: DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_DFS_TMP", str(tmp_path / "dfs"))
    import mlflow.spark

    paths = [str(tmp_path / name) for name in ("pipeline", "validator", "mlflow")]
    pipeline.save(paths[0])
    validator.write().overwrite().save(paths[1])
    # Without requirements MLflow would look for them by importing the model in an environment of its own.
    mlflow.spark.save_model(pipeline, paths[2], pip_requirements=["factorlake"])
    done = subprocess.run(
        [sys.executable, "-c", READER, *paths], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("found:"))[6:])
    assert found["pipeline"] == found["mlflow"] == triples(pipeline.transform(pairs))
    assert found["validator"] == triples(validator.transform(pairs))
    assert found["rank"] == 3
    best: Any = validator.bestModel
    assert found["listed"] == best.userFactors.count()
    assert found["grid"] == [[["regParam", 0.1]], [["regParam", 1000.0]]]


def test_unfitted_pipelines_and_validators_are_read_again(small: DataFrame, tmp_path: Path) -> None:
    als = ALS(rank=3, maxIter=2)
    Pipeline(stages=[als]).save(str(tmp_path / "pipeline"))
    stage = Pipeline.load(str(tmp_path / "pipeline")).getStages()[0]
    assert isinstance(stage, ALS) and (stage.uid, stage.getRank()) == (als.uid, 3)
    grid = ParamGridBuilder().addGrid(als.rank, [2, 3]).addGrid(als.solver, ["exact"]).build()
    CrossValidator(estimator=als, estimatorParamMaps=grid, evaluator=RegressionEvaluator()).save(str(tmp_path / "cv"))
    maps = CrossValidator.load(str(tmp_path / "cv")).getEstimatorParamMaps()
    assert [{p.name: v for p, v in one.items()} for one in maps] == [
        {"rank": 2, "solver": "exact"},
        {"rank": 3, "solver": "exact"},
    ]


def test_a_train_validation_split_is_fitted_saved_and_read(small: DataFrame, pairs: DataFrame, tmp_path: Path) -> None:
    als = ALS(rank=2, maxIter=2, coldStartStrategy="drop")
    stages = Pipeline(stages=[als])
    split = TrainValidationSplit(
        estimator=stages,
        estimatorParamMaps=ParamGridBuilder().addGrid(als.regParam, [1000.0, 0.1]).build(),
        evaluator=RegressionEvaluator(**EVALUATOR),  # type: ignore[arg-type]
        collectSubModels=True,
        seed=1,
    ).fit(small)
    assert split.validationMetrics[1] < split.validationMetrics[0]
    split.save(str(tmp_path / "split"))
    again = TrainValidationSplitModel.load(str(tmp_path / "split"))
    assert triples(again.transform(pairs)) == triples(split.transform(pairs))
    kept: Any = again.subModels
    assert [model.stages[0].rank for model in kept] == [2, 2]


def test_a_model_is_saved_and_read_whole(small: DataFrame, pairs: DataFrame, tmp_path: Path) -> None:
    model = ALS(rank=2, maxIter=2, biases=True).setPredictionCol("p").fit(small)
    path = str(tmp_path / "model")
    model.save(path)
    again = ALSModel.load(path)
    assert (again.uid, again.rank, again.mean, again.trace) == (model.uid, model.rank, model.mean, model.trace)
    assert (again.stopped, again.getPredictionCol()) == ("epochs", "p")
    for mine, read in (
        (model.userFactors, again.userFactors),
        (model.itemFactors, again.itemFactors),
        (model.userBiases, again.userBiases),
        (model.itemBiases, again.itemBiases),
    ):
        assert sorted(map(tuple, mine.collect())) == sorted(map(tuple, read.collect()))
    # NaN is not equal to itself, so the pair with a stranger stays out.
    known = pairs.where("item < 100000")
    assert sorted(map(tuple, model.transform(known).collect())) == sorted(map(tuple, again.transform(known).collect()))
    with pytest.raises(Exception, match="ALREADY_EXISTS"):
        model.save(path)
    for around in (path, f"{path}/", f"{tmp_path}/other/../model", str(tmp_path)):
        with pytest.raises(ConfigError, match="save it to another folder"):
            again.write().overwrite().save(around)
    ALS(rank=1, maxIter=1).fit(small).write().overwrite().save(path)
    assert ALSModel.read().load(path).rank == 1
