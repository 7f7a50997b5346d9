"""Saving and loading: the folder layout of pyspark.ml's own ALSModel, written by the DataFrame API alone.

    metadata/ userFactors/ itemFactors/ [seen/]

The metadata names our classes, by which Pipeline and CrossValidator find them again. A folder that pyspark.ml wrote has
the same parts and is read as well.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.ml.factors import Factors
from factorlake.models.trained import TraceRow
from factorlake.paths import resolved
from factorlake.spark.compat import is_connect

if TYPE_CHECKING:
    from factorlake.ml.model import ALSModel

SPARK_MODEL = "org.apache.spark.ml.recommendation.ALSModel"
SPARK_PARAMS = ("blockSize", "userCol", "itemCol", "predictionCol", "coldStartStrategy")


class ParamsWriter(DefaultParamsWriter):
    """Writes parameters; overwrites on Spark Connect as well."""

    def _handleOverwrite(self, path: str) -> None:
        if not is_connect(self.sparkSession):
            super()._handleOverwrite(path)
            return
        from pyspark.ml.connect.readwrite import RemoteMLWriter

        RemoteMLWriter.handleOverwrite(path, True)


class ModelWriter(ParamsWriter):
    """Writes a model: parameters, factors, what training said, and the pairs that lists leave out."""

    instance: ALSModel

    def save(self, path: str) -> None:
        """Save the model.

        Raises
        ------
        ConfigError : to overwrite the folder that the model reads its factors from, or one around it.
        """
        folder = self.instance.folder
        if self.shouldOverwrite and folder is not None and _lies_in(folder, path):
            raise ConfigError(f"this model reads its factors from {folder}; save it to another folder")
        super().save(path)

    def saveImpl(self, path: str) -> None:
        factors = self.instance.factors
        extra = {
            "rank": factors.rank,
            "mean": factors.mean,
            "biases": factors.biases,
            "sizes": factors.sizes,
            "trace": [asdict(row) for row in factors.trace],
            "stopped": factors.stopped,
            "seen": factors.seen is not None,
        }
        DefaultParamsWriter.saveMetadata(self.instance, path, self.sparkSession, extraMetadata=extra)
        factors.users.write.parquet(f"{path}/userFactors")
        factors.items.write.parquet(f"{path}/itemFactors")
        if factors.seen is not None:
            factors.seen.write.parquet(f"{path}/seen")


def _lies_in(folder: str, path: str) -> bool:
    return f"{resolved(folder)}/".startswith(f"{resolved(path).rstrip('/')}/")


def read_factors(spark: SparkSession, path: str, metadata: dict[str, Any]) -> Factors:
    """Return the factors of a folder that we or pyspark.ml wrote; they are read when they are used."""
    users, items = (spark.read.parquet(f"{path}/{name}") for name in ("userFactors", "itemFactors"))
    if metadata["class"] == SPARK_MODEL:
        without = F.lit(0.0).cast("float").alias("bias")
        users, items = (frame.select("id", "features", without) for frame in (users, items))
        return Factors(users, items, metadata["rank"])
    sizes = metadata["sizes"]
    return Factors(
        users=users,
        items=items,
        rank=metadata["rank"],
        mean=metadata["mean"],
        biases=metadata["biases"],
        sizes=None if sizes is None else (sizes[0], sizes[1]),
        trace=tuple(TraceRow(**row) for row in metadata["trace"]),
        stopped=metadata["stopped"],
        seen=spark.read.parquet(f"{path}/seen") if metadata["seen"] else None,
    )


def read_metadata(spark: SparkSession, path: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the metadata of a saved model of one of the classes ``names``.

    Raises
    ------
    DataRefusedError : it is of another class.
    """
    metadata = DefaultParamsReader.loadMetadata(path, spark)
    if metadata["class"] not in names:
        raise DataRefusedError(f"{path} holds a {metadata['class']}, not one of {', '.join(names)}")
    return metadata


def write_for_spark(model: ALSModel, spark: SparkSession, path: str) -> None:
    """Write a folder that pyspark.ml.recommendation.ALSModel.load reads.

    Biases become two more columns of the factors, (x, μ + b_u, 1) and (y, 1, b_i), so that every prediction stays.

    Raises
    ------
    ConfigError : ids are text, which pyspark.ml does not know.
    """
    factors = model.factors
    for name, frame in (("user", factors.users), ("item", factors.items)):
        kind = frame.schema["id"].dataType.simpleString()
        if kind != "int":
            raise ConfigError(f"the {name} ids are of type {kind}; pyspark.ml knows int ids only, so train on int ids")
    given, defaults = (
        {param.name: value for param, value in one.items() if param.name in SPARK_PARAMS}
        for one in (model._paramMap, model._defaultParamMap)
    )
    told = json.loads(DefaultParamsWriter._get_metadata_to_save(model, spark, paramMap=given))
    told |= {"class": SPARK_MODEL, "defaultParamMap": defaults, "rank": factors.rank + 2 * factors.biases}
    one = F.lit(1.0).cast("float")
    own = {"user": (F.col("bias") + F.lit(factors.mean)).cast("float"), "item": F.col("bias")}
    spark.createDataFrame([(json.dumps(told),)], "value string").coalesce(1).write.text(f"{path}/metadata")
    for name, columns in (("user", (own["user"], one)), ("item", (one, own["item"]))):
        features = F.concat("features", F.array(*columns)) if factors.biases else F.col("features")
        frame = factors.users if name == "user" else factors.items
        frame.select("id", features.alias("features")).write.parquet(f"{path}/{name}Factors")
