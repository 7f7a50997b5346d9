"""pyspark.ml's ALS trained on the same known pairs and judged beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.models.mappings import to_spark
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines.context import Context
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.holdout import PAIR, without_pairs
from factorlake.pipelines.judging import PYSPARK_ML, Part, Task
from factorlake.spark.compat import keep, release
from factorlake.spark.ids import positions


@dataclass(frozen=True)
class PysparkMl:
    """A model of pyspark.ml, with the whole numbers that stand for ids there."""

    model: ALSModel
    users: DataFrame
    """user_id, user."""
    items: DataFrame
    """item_id, item."""
    name: str = PYSPARK_ML
    answers_cold: bool = False

    def lists(self, part: Part, k: int) -> DataFrame:
        """Return each user's best k items that are not known, by recommendForUserSubset.

        That call knows nothing of what a user knows, so it is asked for k items more than the user knows: users with
        about as many known items together, so that one who knows many does not lengthen all lists.
        """
        known = part.known.groupBy("user_id").agg(F.count(F.lit(1)).alias("n"))
        sized = keep(known.join(self.users, on="user_id").withColumn("size", F.ceil(F.log2("n"))))
        try:
            sizes = sorted(row["size"] for row in sized.select("size").distinct().collect())
            asked = [self._listed(sized.where(F.col("size") == size).select("user"), k + 2**size) for size in sizes]
        finally:
            release(sized)
        listed = reduce(DataFrame.unionByName, asked).join(self.users, on="user").join(self.items, on="item")
        in_order = Window.partitionBy("user_id").orderBy(F.desc("score"), "item_id")
        ranked = without_pairs(listed, part.known).withColumn("rank", F.row_number().over(in_order))
        return ranked.where(F.col("rank") <= k).select(*PAIR, "rank", "score")

    def _listed(self, users: DataFrame, n: int) -> DataFrame:
        lists = self.model.recommendForUserSubset(users, n)
        return lists.select("user", F.inline("recommendations").alias("item", "score"))

    def scores(self, part: Part) -> DataFrame:
        """Return the predictions of the pairs asked for whose user and item the model knows."""
        placed = part.asked_pairs().join(self.users, on="user_id").join(self.items, on="item_id")
        predicted = self.model.transform(placed)
        score = F.col("prediction").cast("double")
        return predicted.select(*PAIR, F.when(~F.isnan(score), score).alias("score"))

    def release(self) -> None:
        """Give up what is cached."""
        for frame in (self.users, self.items):
            release(frame)


def spark_parameters(parameters: AlsParameters, all_ones: bool) -> tuple[dict[str, Any], str]:
    """Return pyspark.ml's parameters for our own, and one line that tells what they are.

    They are the same objective in Spark's words where there is such (`to_spark`), also modern iALS without an offset
    where every rating is 1 (``all_ones``). Else Spark's defaults at our rank.
    """
    common: dict[str, Any] = {"rank": parameters.rank, "nonnegative": parameters.nonnegative}
    try:
        found = to_spark(parameters, all_ones)
    except ConfigError:
        told = "its defaults at the same rank: there is no exact mapping of these settings"
        return {**common, "implicitPrefs": parameters.objective != "explicit"}, told
    exact = {"regParam": found.reg_param}
    if found.implicit:
        exact = {"alpha": found.alpha, **exact}
    numbers = ", ".join(f"{name} {value:g}" for name, value in exact.items())
    given = {**common, "implicitPrefs": found.implicit, **exact, "maxIter": parameters.epochs}
    return given, f"the same objective: {numbers}"


def pyspark_ml(context: Context, task: Task) -> PysparkMl:
    """Train pyspark.ml's ALS on all that may be learnt from."""
    settings, learnt = context.settings, task.learnt
    all_ones = settings.train.objective != "explicit" and not learnt.where(F.col("value") != 1).take(1)
    parameters, told = spark_parameters(als_parameters(settings), all_ones)
    context.progress(f"{PYSPARK_ML}: training with {told}")
    ids = {
        side: keep(
            positions(learnt.select(F.col(f"{side}_id").alias("id")), task.n_blocks).frame.select(
                F.col("id").alias(f"{side}_id"), F.col("position").alias(side)
            )
        )
        for side in ("user", "item")
    }
    pairs = learnt.join(ids["user"], on="user_id").join(ids["item"], on="item_id")
    rated = pairs.select("user", "item", F.col("value").cast("float").alias("rating"))
    return PysparkMl(ALS(**parameters, seed=settings.seed).fit(rated), ids["user"], ids["item"])
