"""The estimator: pyspark.ml's parameters in, this project's training, a model out."""

from __future__ import annotations

import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from pyspark import keyword_only
from pyspark.errors import PySparkException
from pyspark.ml.base import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError, RepeatedPairsError
from factorlake.ml.columns import (
    combined_pairs,
    id_column,
    possible_id_column,
    possible_rating_column,
    rating_column,
)
from factorlake.ml.factors import Factors, factor_frame
from factorlake.ml.model import ALSModel
from factorlake.ml.params import EstimatorParams
from factorlake.ml.storage import ParamsWriter
from factorlake.models.parameters import AlsParameters
from factorlake.paths import has_scheme
from factorlake.spark.training import Fitted, Start, fit_pairs

if TYPE_CHECKING:
    from pyspark.ml.recommendation import ALSModel as SparkALSModel

log = logging.getLogger(__name__)


@contextmanager
def _own_folder(workspace: str) -> Iterator[str]:
    """Yield a folder for one fit: fits may run at once in one workspace, as in tuning."""
    folder = f"{workspace}/{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        if not has_scheme(folder):
            shutil.rmtree(folder, ignore_errors=True)


class ALS(Estimator[ALSModel], EstimatorParams, DefaultParamsWritable, DefaultParamsReadable["ALS"]):
    """Alternating least squares with pyspark.ml's parameters and defaults.

    Parameters beyond pyspark.ml's: solver, unobservedWeight, frequencyExponent, biases, biasRegParam, tol, plan,
    workspace and seenFilter (``ALS().explainParams()`` tells each), and the model to start from by `setInitialModel`.
    Accepted without effect, since nothing here depends on them: numUserBlocks, numItemBlocks, blockSize,
    checkpointInterval, intermediateStorageLevel, finalStorageLevel.
    """

    # What saved pipelines name; it must not change with the files of this package.
    __module__ = "factorlake.ml"

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
        solver: str = "auto",
        unobservedWeight: float | None = None,
        frequencyExponent: float = 1.0,
        biases: bool = False,
        biasRegParam: float = 5.0,
        tol: float = 0.0,
        plan: str = "auto",
        workspace: str | None = None,
        seenFilter: bool = False,
    ) -> None:
        super().__init__()
        self._initial: ALSModel | None = None
        self.setParams(**self._input_kwargs)

    @keyword_only
    def setParams(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
        solver: str = "auto",
        unobservedWeight: float | None = None,
        frequencyExponent: float = 1.0,
        biases: bool = False,
        biasRegParam: float = 5.0,
        tol: float = 0.0,
        plan: str = "auto",
        workspace: str | None = None,
        seenFilter: bool = False,
    ) -> Self:
        """Set the parameters that are given; the others stay as they are."""
        return self._set(**self._input_kwargs)

    def _set(self, **kwargs: Any) -> Self:
        # None stands for a parameter that is not set, as in the signatures above.
        return super()._set(**{name: value for name, value in kwargs.items() if value is not None})

    def setRank(self, value: int) -> Self:
        """Set the number of factors."""
        return self._set(rank=value)

    def setMaxIter(self, value: int) -> Self:
        """Set the number of epochs."""
        return self._set(maxIter=value)

    def setRegParam(self, value: float) -> Self:
        """Set λ."""
        return self._set(regParam=value)

    def setNumUserBlocks(self, value: int) -> Self:
        """Set numUserBlocks, which changes nothing here."""
        return self._set(numUserBlocks=value)

    def setNumItemBlocks(self, value: int) -> Self:
        """Set numItemBlocks, which changes nothing here."""
        return self._set(numItemBlocks=value)

    def setNumBlocks(self, value: int) -> Self:
        """Set numUserBlocks and numItemBlocks, which change nothing here."""
        return self._set(numUserBlocks=value, numItemBlocks=value)

    def setImplicitPrefs(self, value: bool) -> Self:
        """Set whether ratings are implicit preferences."""
        return self._set(implicitPrefs=value)

    def setAlpha(self, value: float) -> Self:
        """Set α of the implicit objective's confidence."""
        return self._set(alpha=value)

    def setUserCol(self, value: str) -> Self:
        """Set the column of user ids."""
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set the column of item ids."""
        return self._set(itemCol=value)

    def setRatingCol(self, value: str) -> Self:
        """Set the column of ratings; empty: every rating is 1."""
        return self._set(ratingCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column that the model's predictions go to."""
        return self._set(predictionCol=value)

    def setNonnegative(self, value: bool) -> Self:
        """Set whether factors must not be negative."""
        return self._set(nonnegative=value)

    def setCheckpointInterval(self, value: int) -> Self:
        """Set checkpointInterval, which changes nothing here."""
        return self._set(checkpointInterval=value)

    def setIntermediateStorageLevel(self, value: str) -> Self:
        """Set intermediateStorageLevel, which changes nothing here."""
        return self._set(intermediateStorageLevel=value)

    def setFinalStorageLevel(self, value: str) -> Self:
        """Set finalStorageLevel, which changes nothing here."""
        return self._set(finalStorageLevel=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set what becomes of pairs with an unknown id: nan or drop."""
        return self._set(coldStartStrategy=value)

    def setSeed(self, value: int) -> Self:
        """Set the seed of the initial factors."""
        return self._set(seed=value)

    def setBlockSize(self, value: int) -> Self:
        """Set blockSize, which changes nothing here."""
        return self._set(blockSize=value)

    def setSolver(self, value: str) -> Self:
        """Set how rows are solved: auto, cg, subspace or exact."""
        return self._set(solver=value)

    def setUnobservedWeight(self, value: float) -> Self:
        """Set α0, and with it the objective of modern iALS."""
        return self._set(unobservedWeight=value)

    def setFrequencyExponent(self, value: float) -> Self:
        """Set ν."""
        return self._set(frequencyExponent=value)

    def setBiases(self, value: bool) -> Self:
        """Set whether an explicit model has a mean and biases."""
        return self._set(biases=value)

    def setBiasRegParam(self, value: float) -> Self:
        """Set the ridge of the biases."""
        return self._set(biasRegParam=value)

    def setTol(self, value: float) -> Self:
        """Set the least relative fall of the objective that counts as progress; 0: all epochs."""
        return self._set(tol=value)

    def setPlan(self, value: str) -> Self:
        """Set where rows lie and are solved: auto, local, broadcast or shuffle."""
        return self._set(plan=value)

    def setWorkspace(self, value: str) -> Self:
        """Set the folder for what training keeps meanwhile."""
        return self._set(workspace=value)

    def setInitialModel(self, model: ALSModel | SparkALSModel | None) -> Self:
        """Start training from a model's factors, ours or pyspark.ml's, of the same rank; None: from random ones.

        Ids that the model does not know start as usual. Copies of this estimator start from it too; a saved estimator
        does not keep it.
        """
        self._initial = model if model is None or isinstance(model, ALSModel) else ALSModel.from_spark(model)
        return self

    def getInitialModel(self) -> ALSModel | None:
        """Return the model that training starts from."""
        return self._initial

    def write(self) -> ParamsWriter:
        """Return the writer; ``write().overwrite().save(path)`` replaces what is there."""
        if self._initial is not None:
            log.warning("%s is saved without the model it starts from", self.uid)
        return ParamsWriter(self)

    def _fit(self, dataset: DataFrame) -> ALSModel:
        """Train on ``dataset``.

        Raises
        ------
        ConfigError : a parameter is out of range or not available.
        DataRefusedError : a column is missing or of another type, or there is nothing to train on.
        NumericalError : training went out of bounds.
        """
        parameters = self.engine_parameters()
        initial = self._initial
        if initial is not None and initial.rank != parameters.rank:
            raise ConfigError(f"the initial model has rank {initial.rank}, rank is {parameters.rank}; make them equal")
        sides = {"user_id": self.getUserCol(), "item_id": self.getItemCol()}
        columns = [possible_id_column(dataset, column).alias(side) for side, column in sides.items()]
        weight = self.getAlpha() if parameters.objective == "implicit" and parameters.alpha is None else 1.0
        if self.getRatingCol() or weight != 1.0:
            rating = possible_rating_column(dataset, self.getRatingCol())
            columns.append((rating if weight == 1.0 else rating * F.lit(weight)).alias("value"))
        pairs = dataset.select(*columns)
        folder = self.getWorkspace()
        with tempfile.TemporaryDirectory(prefix="factorlake-") if folder is None else _own_folder(folder) as workspace:
            # The frames of ids that name the rows lie in the workspace until they are released.
            try:
                fitted = self._train(pairs, parameters, workspace)
            except DataRefusedError:
                self._check_rows(dataset)
                raise
            try:
                factors = self._factors(pairs, fitted)
            finally:
                fitted.release()
        return self._copyValues(ALSModel(factors)._resetUid(self.uid))

    def _check_rows(self, dataset: DataFrame) -> None:
        """Fail with pyspark.ml's words on a row that cannot be trained on; asked once training has refused some."""
        checked = dataset.select(
            id_column(dataset, self.getUserCol()).alias("user"),
            id_column(dataset, self.getItemCol()).alias("item"),
            rating_column(dataset, self.getRatingCol()).alias("rating"),
        )
        checked.write.format("noop").mode("overwrite").save()

    def _train(self, pairs: DataFrame, parameters: AlsParameters, workspace: str) -> Fitted:
        """Train; where pairs turn out to occur twice, combine them and train on those."""
        start: Start | None = None
        if self._initial is not None:
            users, items = self._initial.userFactors, self._initial.itemFactors
            start = (users.withColumnRenamed("features", "factor"), items.withColumnRenamed("features", "factor"))

        def train_on(frame: DataFrame) -> Fitted:
            plan: Any = self.getPlan()
            return fit_pairs(
                pairs.sparkSession,
                frame,
                parameters,
                workspace=workspace,
                plan=plan,
                progress=log.info,
                start=start,
            )

        try:
            return train_on(pairs)
        except RepeatedPairsError:
            pass
        except PySparkException as error:
            # Raised on a worker, an error arrives as text.
            if RepeatedPairsError.__name__ not in str(error):
                raise
        return train_on(combined_pairs(pairs, parameters.objective == "implicit"))

    def _factors(self, pairs: DataFrame, fitted: Fitted) -> Factors:
        spark, model = pairs.sparkSession, fitted.model
        sides = ("user_id", fitted.users, model.users), ("item_id", fitted.items, model.items)
        users, items = (
            factor_frame(spark, known, pairs.schema[column].dataType, rows, model.rank) for column, known, rows in sides
        )
        seen = pairs.select(F.col("user_id").alias("user"), F.col("item_id").alias("item"))
        return Factors(
            users=users,
            items=items,
            rank=fitted.parameters.rank,
            mean=model.mean,
            biases=fitted.parameters.has_biases,
            sizes=(fitted.users.n_ids, fitted.items.n_ids),
            trace=model.trace,
            stopped=model.stopped,
            seen=seen if self.getSeenFilter() else None,
        )
