"""Explicit models judged by their predicted ratings: errors summed user by user where the pairs lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import NumericalError
from factorlake.evaluation.intervals import paired_interval
from factorlake.evaluation.rating_error import errors_from_sums
from factorlake.pipelines.context import Context
from factorlake.pipelines.holdout import PAIR
from factorlake.pipelines.judged_slices import CATEGORY, item_labels, user_labels
from factorlake.pipelines.judging import BIASES, COLD, MEAN, MODEL, Contender, Figures, Measured, Part, Task, difference
from factorlake.spark.arrow_codes import sorted_codes
from factorlake.spark.biases import Biases
from factorlake.spark.ids import logical_block

EVERYONE = ""
"""The label of all users of a part."""


@dataclass(frozen=True)
class MeanRating:
    """Predicts the mean known rating for every pair."""

    mean: float
    name: str = MEAN
    answers_cold: bool = True

    def scores(self, part: Part) -> DataFrame:
        """Return the mean for each held-out pair."""
        return part.truth.select(*PAIR, F.lit(self.mean).alias("score"))


@dataclass(frozen=True)
class BiasModel:
    """Predicts μ + b_u + b_i of the known ratings."""

    biases: Biases
    name: str = BIASES
    answers_cold: bool = True

    def scores(self, part: Part) -> DataFrame:
        """Return the predictions of the held-out pairs."""
        return self.biases.predict(part.truth.select(*PAIR))


def judge_ratings(context: Context, contenders: Sequence[Contender], task: Task, biases: Biases) -> Figures:
    """Return RMSE and MAE of everyone, what the model gains over each other, and the slices.

    A pair that someone has no prediction for gets the mean rating. With ``evaluate.clip`` predictions outside the scale
    of the known ratings count as its nearest end.
    """
    figures = _of_part(context, contenders, task.warm, biases, task.n_blocks)
    if task.cold is not None:
        cold = _of_part(context, contenders, task.cold, biases, task.n_blocks, sliced=False)
        figures |= {key._replace(slice=COLD): interval for key, interval in cold.items()}
    return figures


def _of_part(
    context: Context, contenders: Sequence[Contender], part: Part, biases: Biases, n_blocks: int, sliced: bool = True
) -> Figures:
    names = [contender.name for contender in contenders]
    columns = [f"predicted_{name}" for name in names]
    predicted = part.truth.select(*PAIR, "value")
    for contender, column in zip(contenders, columns, strict=True):
        predicted = predicted.join(contender.scores(part).withColumnRenamed("score", column), on=PAIR, how="left")
    for column in columns:
        told = F.coalesce(F.col(column).cast("double"), F.lit(biases.mean))
        if context.settings.evaluate.clip:
            told = F.greatest(F.least(told, F.lit(biases.greatest)), F.lit(biases.least))
        predicted = predicted.withColumn(column, told)
    labels: list[str] = []
    if sliced:
        users, labels = user_labels(context, part)
        predicted = predicted.join(users, on="user_id", how="left")
        items = item_labels(context, part)
        if items is not None:
            predicted, labels = predicted.join(items, on="item_id", how="left"), [*labels, CATEGORY]
    sums = error_sums(predicted, columns, labels, n_blocks)
    figures = {
        Measured(name, metric, label or None): interval
        for label, of_label in sums.items()
        for at, name in enumerate(names)
        for metric, interval in errors_from_sums(of_label.squared[at], of_label.absolute[at], of_label.n).items()
    }
    if sliced:
        figures |= _gains(names, sums[EVERYONE])
    return figures


@dataclass(frozen=True)
class ErrorSums:
    """Sums of the users of one slice: ``squared`` and ``absolute`` (n_names, n_users), ``n`` (n_users,)."""

    squared: NDArray[np.float64]
    absolute: NDArray[np.float64]
    n: NDArray[np.int64]


def _gains(names: Sequence[str], sums: ErrorSums) -> Figures:
    """Return what others err more than the model, by user."""
    own = names.index(MODEL)
    gains: Figures = {}
    for metric, of_user in (("rmse", np.sqrt(sums.squared / sums.n)), ("mae", sums.absolute / sums.n)):
        for at, name in enumerate(names):
            if at != own:
                gains[Measured(difference(name), metric)] = paired_interval(of_user[at], of_user[own])
    return gains


def error_sums(
    predicted: DataFrame, names: Sequence[str], labels: Sequence[str], n_blocks: int
) -> dict[str, ErrorSums]:
    """Return each user's sums of squared and absolute errors, by slice; that of everyone is called ''.

    Parameters
    ----------
    predicted : user_id, item_id, value, a column of predictions for each of ``names`` and one of text for each of
        ``labels``; null: in no slice.
    n_blocks : a power of two: users are grouped by the leading bits of their id's hash.

    The driver holds some numbers of each user. Sums run over a user's items in their order, and users are ordered by
    (group, id), so that partitions change no bit.

    Raises
    ------
    NumericalError : a rating or prediction is not finite.
    """

    def add_up(table: pa.Table) -> pa.Table:
        return _add_up(table, names, labels)

    block = logical_block(F.xxhash64("user_id"), n_blocks).alias("block")
    grouped = predicted.select(*PAIR, "value", *names, *labels, block).groupBy("block")
    schema = (
        "label string, block int, place bigint, n bigint, bad bigint, squared array<double>, absolute array<double>"
    )
    table = grouped.applyInArrow(add_up, schema).toArrow()
    table = table.sort_by([("label", "ascending"), ("block", "ascending"), ("place", "ascending")])
    if table["bad"].to_numpy().any():
        raise NumericalError("a held-out rating or its prediction is not finite; train the model again")
    squared, absolute = (_matrix(table[name], len(names)) for name in ("squared", "absolute"))
    code, found = sorted_codes(table["label"])
    n = table["n"].to_numpy()
    return {
        label: ErrorSums(squared[:, code == at], absolute[:, code == at], n[code == at])
        for at, label in enumerate(found.to_pylist())
    }


def _matrix(lists: pa.ChunkedArray, n_names: int) -> NDArray[np.float64]:
    """(n_names, n_rows)."""
    flat = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(-1, n_names).T)


def _add_up(table: pa.Table, names: Sequence[str], labels: Sequence[str]) -> pa.Table:
    table = table.sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    user, ids = sorted_codes(table["user_id"])
    value = table["value"].to_numpy()
    errors = np.stack([table[name].to_numpy() - value for name in names])
    bad = ~np.isfinite(errors).all(axis=0)
    parts = [_slice_sums(EVERYONE, user, len(ids), errors, bad)]
    for column in labels:
        code, values = sorted_codes(table[column])
        for at, label in enumerate(values.to_pylist()):
            chosen = code == at
            parts.append(_slice_sums(label, user[chosen], len(ids), errors[:, chosen], bad[chosen]))
    whole = pa.concat_tables(parts)
    block = pa.array(np.full(len(whole), table["block"][0].as_py()), pa.int32())
    return whole.add_column(1, "block", block)


def _slice_sums(
    label: str, user: NDArray[np.int64], n_users: int, errors: NDArray[np.float64], bad: NDArray[np.bool_]
) -> pa.Table:
    """Return the sums of the users with a pair in a slice."""
    n = np.bincount(user, minlength=n_users)
    rated = np.flatnonzero(n)

    def sums(figures: NDArray[np.float64]) -> pa.Array:
        of_users = np.stack([np.bincount(user, row, minlength=n_users)[rated] for row in figures], axis=1)
        offsets = np.arange(len(rated) + 1, dtype=np.int32) * len(figures)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(of_users.reshape(-1)))

    return pa.table(
        {
            "label": pa.array([label] * len(rated), pa.string()),
            "place": pa.array(rated),
            "n": pa.array(n[rated]),
            "bad": pa.array(np.bincount(user, bad, minlength=n_users)[rated].astype(np.int64)),
            "squared": sums(errors**2),
            "absolute": sums(np.abs(errors)),
        }
    )
