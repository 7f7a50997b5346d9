"""What stochastic gradients are held against: the mean and the bias model on the ratings held out for validation."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.evaluation.rating_error import errors_from_sums
from factorlake.models.sgd_cells import validation_seed
from factorlake.models.sgd_parameters import SgdParameters
from factorlake.pipelines.context import Context
from factorlake.pipelines.holdout import PAIR, split_events
from factorlake.pipelines.judged_ratings import EVERYONE, error_sums
from factorlake.pipelines.judging import BIASES, MEAN
from factorlake.spark.biases import fit_biases
from factorlake.spark.exchange import Exchange
from factorlake.tables import registry
from factorlake.tables.schemas import SCHEMAS

VALIDATION = "validation"
"""The split of these rows of the table evaluation."""


def record_baselines(
    context: Context, ratings: DataFrame, parameters: SgdParameters, version: str, n_blocks: int
) -> None:
    """Judge the mean and the bias model of the ratings trained on by those held out; write rows of evaluation.

    ratings : (user_id, item_id, value) that `sgd` trained on and validated by. Nothing is written where none is held
        out. Predictions of the bias model are held within the ratings trained on where those of the model are (minmax).
    """
    if not parameters.validation_share:
        return
    seed = validation_seed(parameters)
    trained, held = split_events(ratings, "hash", None, parameters.validation_share, seed)
    if not held.take(1) or not trained.take(1):
        return
    with Exchange(context.spark, context.lake.exchange(version)) as exchange:
        biases = fit_biases(trained, exchange, n_blocks)
        try:
            score = F.col("score")
            if parameters.scaling == "minmax":
                score = F.greatest(F.least(score, F.lit(biases.greatest)), F.lit(biases.least))
            told = biases.predict(held.select(*PAIR)).select(*PAIR, score.alias(BIASES))
            predicted = held.join(told, on=PAIR).withColumn(MEAN, F.lit(biases.mean))
            names = (MEAN, BIASES)
            sums = error_sums(predicted, names, (), n_blocks)[EVERYONE]
        finally:
            biases.release()
    rows = [
        {
            "model_version": version,
            "split": VALIDATION,
            "name": name,
            "metric": metric,
            "value": interval.value,
            "lower": interval.lower,
            "upper": interval.upper,
            "n": interval.n,
            "recorded_at": registry.now(),
            "run_id": context.run_id,
        }
        for at, name in enumerate(names)
        for metric, interval in errors_from_sums(sums.squared[at], sums.absolute[at], sums.n).items()
    ]
    context.append_rows(rows, context.lake.own("evaluation"), SCHEMAS["evaluation"], app_id=f"{VALIDATION}:{version}")
