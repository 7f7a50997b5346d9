"""The drop-in on Spark Connect: a local Connect server, in a process of its own since a process has one kind of
session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from factorlake.ml import ALS

pytestmark = pytest.mark.spark

CLIENT = """
import json, sys
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.recommendation import ALS as SparkALS
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import SparkSession
from factorlake.ml import ALS, ALSModel

spark = SparkSession.builder.remote("local[2]").getOrCreate()
assert "connect" in type(spark).__module__
ratings = spark.read.parquet(sys.argv[1])
folder = sys.argv[2]
als = ALS(rank=3, maxIter=2, coldStartStrategy="drop", seenFilter=True)
model = als.fit(ratings)
model.save(folder + "/model")
model.write().overwrite().save(folder + "/model")
again = ALSModel.load(folder + "/model")

def triples(frame):
    return sorted((r["user"], r["item"], r["prediction"]) for r in frame.collect())

pairs = spark.createDataFrame([(10, 1), (20, 50), (20, 100000)], "user int, item int")
taken = ALSModel.from_spark(SparkALS(rank=3, maxIter=1, seed=1).fit(ratings))
pipeline = Pipeline(stages=[als]).fit(ratings)
pipeline.write().overwrite().save(folder + "/pipeline")
grid = ParamGridBuilder().addGrid(als.regParam, [0.1, 1000.0]).build()
evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating", predictionCol="prediction")
split = TrainValidationSplit(estimator=als, estimatorParamMaps=grid, evaluator=evaluator, seed=1).fit(ratings)
print("found:" + json.dumps({
    "factors": sorted((r["id"], r["features"]) for r in model.userFactors.collect()),
    "model": triples(model.transform(pairs)),
    "again": triples(again.transform(pairs)),
    "pipeline": triples(PipelineModel.load(folder + "/pipeline").transform(pairs)),
    "listed": model.recommendForAllUsers(2).count(),
    "subset": again.recommendForItemSubset(pairs, 2).count(),
    "warm": als.setInitialModel(taken).fit(ratings).trace[-1].loss,
    "metrics": split.validationMetrics,
}))
spark.stop()
"""


def test_connect_gives_the_bits_that_classic_spark_gives(spark: SparkSession, small: DataFrame, tmp_path: Path) -> None:
    small.write.parquet(str(tmp_path / "ratings"))
    # Variables of a classic session in this process would make the other one classic too.
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK_GATEWAY", "SPARK_"))}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(tmp_path / "ratings"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**keep, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("found:"))[6:])
    model = ALS(rank=3, maxIter=2, coldStartStrategy="drop", seenFilter=True).fit(small)
    wanted = sorted([row["id"], row["features"]] for row in model.userFactors.collect())
    assert found["factors"] == wanted
    pairs = spark.createDataFrame([(10, 1), (20, 50), (20, 100000)], "user int, item int")
    predicted = sorted([row["user"], row["item"], row["prediction"]] for row in model.transform(pairs).collect())
    assert found["model"] == found["again"] == found["pipeline"] == predicted
    assert found["listed"] == model.userFactors.count()
    assert found["subset"] == 2
    assert found["warm"] < model.trace[0].loss
    assert found["metrics"][0] < found["metrics"][1]
