"""Lists and ratings in Spark frames, judged where they lie. Frames in memory beside them go to Spark."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, reduce
from typing import Any

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, IntegralType, NumericType, StringType

from factorlake.errors import DataRefusedError
from factorlake.evaluation.intervals import Interval
from factorlake.evaluation.list_rows import metric_names
from factorlake.evaluation.rating_error import UserErrors
from factorlake.evaluation.slices import deciles_of_counts
from factorlake.metrics.frames import (
    HELD_OUT,
    LISTS,
    PREDICTIONS,
    RATINGS,
    SLICES,
    is_spark,
    label_columns,
    place_column,
    plain_table,
    rating_columns,
    refuse_many_labels,
)
from factorlake.metrics.results import (
    ACTIVITY,
    ALL,
    COLD,
    Intervals,
    difference_name,
    label_text,
    naming,
    refuse_nobody,
)
from factorlake.models.blocks import number_of_blocks
from factorlake.spark.compat import keep, release
from factorlake.spark.ranking import (
    KnownPairs,
    count_known,
    count_listed,
    has_columns,
    metric_intervals,
    per_user_metrics,
    shared_types,
    with_types,
)
from factorlake.spark.rating_error import rating_sums


def judge(
    recommendations: Mapping[str, Any], held_out: Any, k: int, known: Any, slices: Any, level: float
) -> Intervals:
    """Return every interval of `compare_rankings`, in any order."""
    frames = {"known": known, "slices": None if isinstance(slices, str) else slices}
    frames = {told: frame for told, frame in frames.items() if frame is not None}
    truth, *given = _spark_frames(held_out, *recommendations.values(), *frames.values())
    lists: dict[str, DataFrame] = dict(zip(recommendations, given, strict=False))
    more: dict[str, DataFrame] = dict(zip(frames, given[len(lists) :], strict=True))
    for name, listed in lists.items():
        with naming(name, lists):
            _refuse_text(listed, LISTS, place_column(listed))
    with ExitStack() as until_done:
        counted = None
        if known is not None:
            counted = _answer(lambda: count_known(more["known"]))
            until_done.callback(counted.release)
        task = _Task(lists, counted, k, level, number_of_blocks(truth.count()), until_done)
        figures = task.judge(truth)
        users = next(iter(figures.values())).where(task.is_warm)
        everyone = F.when(task.is_warm, ALL).otherwise(COLD)
        rows = [task.labelled(figures, lambda users: users.withColumn("slice", everyone))]
        of_items: list[DataFrame] = []
        if isinstance(slices, str):
            deciles = _answer(partial(_deciles, users))
            rows.append(task.labelled(figures, lambda users: users.where(task.is_warm).join(deciles, on="n_known")))
        elif slices is not None:
            key, columns = label_columns(more["slices"].columns)
            shared_types({HELD_OUT: truth, SLICES: more["slices"]}, [key])
            labels = [text.dropna() for text in _texts(more["slices"], key, columns)]
            if key == "user_id":
                rows += [task.labelled(figures, partial(task.join_warm, labels=one)) for one in labels]
            else:
                of_items = labels
        found = task.intervals(figures, rows)
        refuse_nobody(len(found))
        for one in of_items:
            found |= task.by_item(truth, one)
        if counted is not None and (next(iter(lists)), ALL, f"ndcg@{k}") in found:
            catalogue = counted.items.select("item_id").unionByName(truth.select("item_id"))
            for name, listed in lists.items():
                n_listed, n_items = count_listed(listed, users, k, catalogue, counted)
                n_users = found[name, ALL, f"ndcg@{k}"].n
                found[name, ALL, f"coverage@{k}"] = Interval(n_listed / n_items, np.nan, np.nan, n_users)
    return found


def user_errors(predicted: Any, actual: Any) -> UserErrors:
    """Return the sums of each user's errors."""
    guess_column, rating_column = rating_columns(predicted, actual)
    guesses, ratings = _spark_frames(predicted, actual)
    _refuse_text(guesses, PREDICTIONS, guess_column)
    _refuse_text(ratings, RATINGS, rating_column)
    for frame, told in ((guesses, PREDICTIONS), (ratings, RATINGS)):
        has_columns(frame, told, "user_id", "item_id")
    types = shared_types({PREDICTIONS: guesses, RATINGS: ratings})
    key = ["user_id", "item_id"]
    asked = with_types(ratings, types).select(*key, F.col(rating_column).cast("double").alias("rating"))
    guessed = with_types(guesses, types).select(*key, F.col(guess_column).cast("double").alias("predicted"))
    # A pair that is predicted twice comes out twice, and is refused for it.
    return _answer(lambda: rating_sums(asked.join(guessed, on=key, how="left")))


class _Task:
    """Lists by name, what is known, and how they are judged; what is kept meanwhile goes with ``until_done``."""

    def __init__(
        self,
        lists: Mapping[str, DataFrame],
        known: KnownPairs | None,
        k: int,
        level: float,
        n_groups: int,
        until_done: ExitStack,
    ) -> None:
        self._lists, self._known, self._k, self._level = lists, known, k, level
        self._n_groups, self._until_done = n_groups, until_done
        self._metrics = metric_names(k, known is not None)
        self.is_warm: Column = F.lit(True) if known is None else F.col("n_known") > 0

    def judge(self, truth: DataFrame) -> dict[str, DataFrame]:
        """Return the figures of each user, by name."""
        figures = {}
        for name, frame in self._lists.items():
            with naming(name, self._lists):
                figures[name] = keep(per_user_metrics(frame, truth, self._k, self._known, self._n_groups))
            self._until_done.callback(release, figures[name])
        return figures

    def labelled(self, figures: Mapping[str, DataFrame], label: Callable[[DataFrame], DataFrame]) -> DataFrame:
        """Return user_id, the metrics and slice of every name and difference to the first, slices headed by the number
        of what they are of; ``label`` adds the column slice to figures of users."""
        chosen = [F.col("user_id"), *(F.col(f"`{metric}`") for metric in self._metrics)]
        parts = [
            label(frame).select(*chosen, F.concat(F.lit(f"{at}:"), "slice").alias("slice"))
            for at, frame in enumerate((dict(figures) | self._differences(figures)).values())
        ]
        return _union(parts)

    def intervals(self, figures: Mapping[str, DataFrame], rows: Sequence[DataFrame]) -> Intervals:
        """Return the intervals of `labelled` rows, all in one query."""
        names = [*figures, *self._differences(figures)]
        joined = _union(rows)
        query = partial(metric_intervals, joined, self._metrics, ["slice"], self._level, self._n_groups)
        try:
            found = _answer(query)
        except DataRefusedError:
            # One of several is at fault: it says so again when it is asked alone.
            for name, frame in figures.items():
                with naming(name, figures):
                    _answer(frame.count)
            raise
        intervals: Intervals = {}
        for (text, metric), interval in found.items():
            at, _, label = text.partition(":")
            intervals[names[int(at)], label, metric] = interval
        return intervals

    def by_item(self, truth: DataFrame, labels: DataFrame) -> Intervals:
        """Return the intervals of known users judged on the held-out items of each label; labels : item_id, slice."""
        found: Intervals = {}
        texts = [row["slice"] for row in labels.select("slice").distinct().collect()]
        refuse_many_labels(len(texts))
        for text in texts:
            items = labels.where(F.col("slice") == text).select("item_id")
            figures = self.judge(truth.join(items, on="item_id", how="left_semi"))
            found |= self.intervals(figures, [self.labelled(figures, partial(self._all_in, text=text))])
        return found

    def join_warm(self, users: DataFrame, labels: DataFrame) -> DataFrame:
        """Give known users the slice that stands beside their id."""
        return users.where(self.is_warm).join(labels, on="user_id")

    def _all_in(self, users: DataFrame, text: str) -> DataFrame:
        return users.where(self.is_warm).withColumn("slice", F.lit(text))

    def _differences(self, figures: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
        first, *others = figures
        # Columns of the two frames would have the same names.
        of_first = figures[first].select(
            "user_id", *(F.col(f"`{metric}`").alias(f"first {at}") for at, metric in enumerate(self._metrics))
        )
        gains = [(F.col(f"`{metric}`") - F.col(f"first {at}")).alias(metric) for at, metric in enumerate(self._metrics)]
        return {
            difference_name(other, first): figures[other]
            .join(of_first, on="user_id")
            .select("user_id", *gains, "n_known")
            for other in others
        }


def _union(frames: Sequence[DataFrame]) -> DataFrame:
    return reduce(lambda above, below: above.unionByName(below), frames)


def _spark_frames(*frames: Any) -> list[DataFrame]:
    """Return the frames as Spark ones, those in memory through Arrow."""
    session = next(frame.sparkSession for frame in frames if is_spark(frame))
    return [frame if is_spark(frame) else session.createDataFrame(plain_table(frame)) for frame in frames]


def _answer(run: Callable[[], Any]) -> Any:
    """Run a query; what a task refuses is told as if it had been found here."""
    try:
        return run()
    except PySparkException as error:
        told = re.search(r"(?:DataRefusedError: |USER_RAISED_EXCEPTION\] )([^\n]*)", str(error))
        if told is None:
            raise
        raise DataRefusedError(re.sub(r" SQLSTATE: \w+$", "", told[1])) from error


def _refuse_text(frame: DataFrame, told: str, column: str) -> None:
    kind = frame.schema[column].dataType
    if not isinstance(kind, NumericType):
        raise DataRefusedError(f"{told}: {column} is {kind.simpleString()}; it must be a number")


def _deciles(users: DataFrame) -> DataFrame:
    """Return (n_known, slice): the activity decile of each number of known items."""
    counts = sorted((row["n_known"], row["count"]) for row in users.groupBy("n_known").count().collect())
    deciles = deciles_of_counts(np.array([n_users for _, n_users in counts], np.int64)).tolist()
    rows = [(n_known, label_text(ACTIVITY, decile)) for (n_known, _), decile in zip(counts, deciles, strict=True)]
    return users.sparkSession.createDataFrame(rows, "n_known bigint, slice string")


def _texts(slices: DataFrame, key: str, columns: Sequence[str]) -> list[DataFrame]:
    """Return, for each column of labels, the key and slice: "column=label"."""
    for column in columns:
        kind = slices.schema[column].dataType
        if not isinstance(kind, (StringType, IntegralType, BooleanType)):
            raise DataRefusedError(
                f"{SLICES}: column {column} is {kind.simpleString()}; labels are text, whole numbers or booleans"
            )
    if slices.groupBy(key).count().where(F.col("count") > 1).limit(1).count():
        raise DataRefusedError(f"a {key} stands twice in {SLICES}: give each one row")
    return [
        slices.select(key, F.concat(F.lit(label_text(name, "")), F.col(f"`{name}`").cast("string")).alias("slice"))
        for name in columns
    ]
