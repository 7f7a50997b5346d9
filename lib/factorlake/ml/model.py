"""The fitted model: predictions for pairs, lists, factors; saved and loaded like pyspark.ml's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pyspark.ml.base import Model
from pyspark.ml.util import DefaultParamsReader, MLReadable, MLReader, MLWritable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.ml.columns import check_new_column, id_column, key_column, named, possible_id_column
from factorlake.ml.factors import Factors, dot_product, packed_factors
from factorlake.ml.lists import best_of_other_side
from factorlake.ml.params import ModelParams
from factorlake.ml.storage import (
    SPARK_MODEL,
    ModelWriter,
    read_factors,
    read_metadata,
    write_for_spark,
)
from factorlake.models.trained import Stopped, TraceRow
from factorlake.types import Side

if TYPE_CHECKING:
    from pyspark.ml.recommendation import ALSModel as SparkALSModel

# Names of columns that a join adds for a moment; no frame of a user has such.
_USER_ID, _ITEM_ID, _USER, _ITEM = (f"__factorlake_{name}" for name in ("user_id", "item_id", "user", "item"))


class ALSModel(Model, ModelParams, MLWritable, MLReadable["ALSModel"]):
    """A model fitted by `factorlake.ml.ALS`, or one of pyspark.ml taken over by `from_spark`.

    ``factors`` : what it holds. None only until `load` has filled it.
    """

    # What saved pipelines name; it must not change with the files of this package.
    __module__ = "factorlake.ml"

    def __init__(self, factors: Factors | None = None) -> None:
        super().__init__()
        self._factors = factors
        self.folder: str | None = None
        """Folder the factors are read from, of a loaded model."""

    def setUserCol(self, value: str) -> Self:
        """Set the column of user ids."""
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set the column of item ids."""
        return self._set(itemCol=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set what becomes of pairs with an unknown id: nan or drop."""
        return self._set(coldStartStrategy=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column that predictions go to."""
        return self._set(predictionCol=value)

    def setBlockSize(self, value: int) -> Self:
        """Set blockSize, which changes nothing here."""
        return self._set(blockSize=value)

    @property
    def factors(self) -> Factors:
        """The factors, biases and mean, and what training said."""
        if self._factors is None:
            raise ConfigError("this model holds no factors; fit one, or read one by ALSModel.load")
        return self._factors

    @property
    def rank(self) -> int:
        """Number of columns of the factors."""
        return self.factors.rank

    @property
    def userFactors(self) -> DataFrame:
        """(id, features array<float>) of the users."""
        return self.factors.users.select("id", "features")

    @property
    def itemFactors(self) -> DataFrame:
        """(id, features array<float>) of the items."""
        return self.factors.items.select("id", "features")

    @property
    def userBiases(self) -> DataFrame:
        """(id, bias float) of the users; 0 in a model without biases."""
        return self.factors.users.select("id", "bias")

    @property
    def itemBiases(self) -> DataFrame:
        """(id, bias float) of the items; 0 in a model without biases."""
        return self.factors.items.select("id", "bias")

    @property
    def mean(self) -> float:
        """μ of a model with biases, else 0."""
        return self.factors.mean

    @property
    def trace(self) -> tuple[TraceRow, ...]:
        """The objective and its parts at each half step; empty for a model of another trainer."""
        return self.factors.trace

    @property
    def stopped(self) -> Stopped | None:
        """Why training ended: all epochs ran ('epochs') or ``tol`` was reached ('objective')."""
        return self.factors.stopped

    def __str__(self) -> str:
        return f"ALSModel: uid={self.uid}, rank={self.rank}"

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add x·y (+ μ + b_u + b_i) as float: summed in float64, rounded once; NaN where an id is unknown.

        Raises
        ------
        DataRefusedError : a column is missing or of another type.
        ConfigError : predictionCol is there already.
        """
        user, item, prediction = self.getUserCol(), self.getItemCol(), self.getPredictionCol()
        strategy = self.cold_start()
        checked = dataset.withColumns({user: id_column(dataset, user), item: id_column(dataset, item)})
        check_new_column(dataset, prediction)
        users = self._packed("user", _USER_ID, _USER)
        items = self._packed("item", _ITEM_ID, _ITEM)
        joined = checked.join(users, on=self._key("user", checked, user) == F.col(_USER_ID), how="left").join(
            items, on=self._key("item", checked, item) == F.col(_ITEM_ID), how="left"
        )
        # Spark turns the NaN of a pandas function into null.
        whole = F.coalesce(dot_product(_USER, _ITEM), F.lit(float("nan")).cast("float"))
        # Not withColumn: it would replace a column whose name differs by case only.
        predicted = joined.select("*", whole.alias(prediction)).drop(_USER_ID, _ITEM_ID, _USER, _ITEM)
        return predicted.where(~F.isnan(named(prediction))) if strategy == "drop" else predicted

    def _key(self, side: Side, dataset: DataFrame, column: str) -> Column:
        return key_column(dataset, column, self.factors.side(side).schema["id"].dataType)

    def _packed(self, side: Side, id_name: str, packed_name: str) -> DataFrame:
        frame = packed_factors(self.factors, side, id_name, packed_name)
        return F.broadcast(frame) if self.factors.is_small(side) else frame

    def recommendForAllUsers(self, numItems: int) -> DataFrame:
        """Return (userCol, recommendations array<(itemCol, rating)>): the best ``numItems`` items of every user.

        Scores are exact and ties go by item id. With seenFilter, items of the user's training pairs are left out.
        """
        return self._lists("user", self.factors.users, numItems)

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """Return (itemCol, recommendations array<(userCol, rating)>): the best ``numUsers`` users of every item."""
        return self._lists("item", self.factors.items, numUsers)

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """Return the lists of the known users among ``dataset``'s column userCol, one each."""
        return self._lists("user", self._subset("user", dataset, self.getUserCol()), numItems)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """Return the lists of the known items among ``dataset``'s column itemCol, one each."""
        return self._lists("item", self._subset("item", dataset, self.getItemCol()), numUsers)

    def _subset(self, side: Side, dataset: DataFrame, column: str) -> DataFrame:
        checked = dataset.select(possible_id_column(dataset, column).alias(column))
        wanted = checked.select(self._key(side, checked, column).alias("id"))
        return self.factors.side(side).join(wanted, on="id", how="left_semi")

    def _lists(self, side: Side, sources: DataFrame, k: int) -> DataFrame:
        skip_seen = self.getSeenFilter()
        if skip_seen and self.factors.seen is None:
            raise ConfigError(
                "this model does not know what it was trained on; fit it again with seenFilter=True, or set "
                "seenFilter=False"
            )
        own, other = self.getUserCol(), self.getItemCol()
        if side == "item":
            own, other = other, own
        return best_of_other_side(self.factors, sources, side, own, other, k, skip_seen)

    def write(self) -> ModelWriter:
        """Return the writer; ``write().overwrite().save(path)`` replaces what is there."""
        return ModelWriter(self)

    @classmethod
    def read(cls) -> MLReader[ALSModel]:
        """Return the reader of saved models."""
        return _Reader()

    @classmethod
    def from_spark(cls, model: SparkALSModel | str, spark: SparkSession | None = None) -> ALSModel:
        """Take over a model of pyspark.ml: the model itself, or the folder it was saved to.

        Predictions, lists and storage are then ours; training goes on from it by ``ALS.setInitialModel``.

        Raises
        ------
        DataRefusedError : the folder holds something else.
        """
        if isinstance(model, str):
            spark = spark or SparkSession.active()
            metadata = read_metadata(spark, model, (SPARK_MODEL,))
            taken = cls(read_factors(spark, model, metadata))
            taken.folder = model.rstrip("/")
            DefaultParamsReader.getAndSetParams(taken, metadata)
            return taken._resetUid(metadata["uid"])
        without = F.lit(0.0).cast("float").alias("bias")
        users, items = (frame.select("id", "features", without) for frame in (model.userFactors, model.itemFactors))
        taken = cls(Factors(users, items, model.rank))
        return model._copyValues(taken._resetUid(model.uid))

    def to_spark(self, path: str, spark: SparkSession | None = None) -> None:
        """Write a folder that ``pyspark.ml.recommendation.ALSModel.load(path)`` reads: the way back.

        A model with biases becomes one of rank + 2 that predicts the same.

        Raises
        ------
        ConfigError : ids are text, which pyspark.ml does not know.
        """
        write_for_spark(self, spark or SparkSession.active(), path)


class _Reader(MLReader[ALSModel]):
    """Reads what `ModelWriter` wrote."""

    def load(self, path: str) -> ALSModel:
        spark = self.sparkSession
        metadata = read_metadata(spark, path, (f"{ALSModel.__module__}.{ALSModel.__name__}",))
        model = ALSModel(read_factors(spark, path, metadata))
        model.folder = path.rstrip("/")
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model._resetUid(metadata["uid"])
