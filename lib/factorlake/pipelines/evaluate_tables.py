"""Tables that people hand in to be judged by, or to be judged: held-out pairs, candidates, recommendations."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import reduce

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DecimalType, FractionalType, IntegralType, NumericType, StringType

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.paths import has_scheme, resolved
from factorlake.pipelines.context import Context
from factorlake.pipelines.holdout import PAIR
from factorlake.tables import delta_io

CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def held_out_pairs(context: Context, explicit: bool) -> DataFrame:
    """Return (user_id, item_id, value) of ``evaluate.held_out``, each pair once: of repeated ones the mean value of an
    explicit model's, else the greatest. Without a column of values each is 1.

    Raises
    ------
    ConfigError : nothing lies there that is a table. DataRefusedError : a column is missing, an id is null, or a value
    is no number.
    """
    setting = "evaluate.held_out"
    frame = _table(context, setting, str(context.settings.evaluate.held_out))
    columns = _found(context, frame, setting, ("value",))
    value = _number(frame, setting, columns["value"]) if "value" in columns else F.lit(1.0)
    pairs = frame.select(*_ids(frame, setting, columns), value.alias("value"))
    _refuse_nulls(pairs, setting)
    in_order = F.array_sort(F.collect_list("value"))
    total = F.aggregate(in_order, F.lit(0.0), lambda so_far, one: so_far + one)
    combined = total / F.count("value") if explicit else F.max("value")
    return pairs.groupBy(*PAIR).agg(combined.alias("value"))


def candidate_pairs(context: Context) -> DataFrame:
    """Return (user_id, item_id) of ``evaluate.candidates``, each pair once. Raises as `held_out_pairs`."""
    setting = "evaluate.candidates"
    frame = _table(context, setting, str(context.settings.evaluate.candidates))
    pairs = frame.select(*_ids(frame, setting, _found(context, frame, setting)))
    _refuse_nulls(pairs, setting)
    return pairs.distinct()


def recommended_items(context: Context, path: str, *, scores_wanted: bool) -> DataFrame:
    """Return (user_id, item_id, place, score) of a table of recommendations: the least place is the best, by rank or
    by score; score is null where there is none.

    ``scores_wanted`` : an explicit model is judged by predicted ratings, so ranks do not do.

    Raises
    ------
    ConfigError : nothing lies there that is a table.
    DataRefusedError : a column is missing, an id, rank or score is null or no number, or a pair stands twice.
    """
    setting = f"--recommendations {path}"
    frame = _table(context, setting, path)
    columns = _found(context, frame, setting, ("rank", "score"))
    if not {"rank", "score"} & set(columns):
        raise DataRefusedError(f"{setting} has neither a column rank nor score; it has {', '.join(frame.columns)}")
    if scores_wanted and "score" not in columns:
        raise DataRefusedError(
            f"{setting} has ranks only, but this model is explicit and judged by predicted ratings: give them as score"
        )
    score = _number(frame, setting, columns["score"]) if "score" in columns else F.lit(None).cast("double")
    place = _number(frame, setting, columns["rank"]) if "rank" in columns else -score
    lists = frame.select(*_ids(frame, setting, columns), place.alias("place"), score.alias("score"))
    _refuse_nulls(lists, setting, [*PAIR, *(["score"] if scores_wanted else ["place"])])
    repeated = lists.groupBy(*PAIR).count().where(F.col("count") > 1).count()
    if repeated:
        raise DataRefusedError(
            f"{setting}: {repeated} pairs of user and item stand there more than once; keep one each"
        )
    return lists


def contents(frame: DataFrame) -> str:
    """Return the count and an order-free hash of a frame's rows: equal for equal contents."""
    hashed = F.xxhash64(*sorted(frame.columns))
    n, total = frame.agg(F.count(F.lit(1)), F.sum(hashed.cast("decimal(38,0)"))).collect()[0]
    return f"{n}:{total}"


def _table(context: Context, setting: str, given: str) -> DataFrame:
    path = resolved(given)
    try:
        frame = _open(context.spark, path)
        _ = frame.schema
    except PySparkException as error:
        raise ConfigError(
            f"{setting}: {given} is no Delta table and neither Parquet nor CSV ({str(error).partition(chr(10))[0]})"
        ) from None
    return frame


def _open(spark: SparkSession, path: str) -> DataFrame:
    if delta_io.exists(spark, path):
        return spark.read.format("delta").load(path)
    names = [path]
    if not has_scheme(path) and os.path.isdir(path):
        names = [name for name in os.listdir(path) if not name.startswith((".", "_"))]
    if names and all(name.lower().endswith(CSV) for name in names):
        tabs = all(".tsv" in name.lower() for name in names)
        # Ids stay text: 007 is not 7.
        return spark.read.option("sep", "\t" if tabs else ",").csv(path, header=True)
    return spark.read.parquet(path)


def _found(context: Context, frame: DataFrame, setting: str, optional: Iterable[str] = ()) -> dict[str, str]:
    """Return the name in the frame of each part of it: that of evaluate.columns, else its own."""
    given = context.settings.evaluate.columns
    found: dict[str, str] = {}
    for part in (*PAIR, *optional):
        for name in (given.get(part, part), part):
            if name in frame.columns:
                found.setdefault(part, name)
    missing = [part for part in PAIR if part not in found]
    if missing:
        raise DataRefusedError(
            f"{setting} has no column {missing[0]}; it has {', '.join(frame.columns)}: name the one that is meant in "
            f"evaluate.columns, as in --set evaluate.columns.{missing[0]}=NAME"
        )
    return found


def _named(column: str) -> Column:
    return F.col("`" + column.replace("`", "``") + "`")


def _ids(frame: DataFrame, setting: str, columns: dict[str, str]) -> list[Column]:
    return [_text(frame.schema[columns[part]].dataType, columns[part], setting).alias(part) for part in PAIR]


def _text(kind: DataType, column: str, setting: str) -> Column:
    """Return ids as the log has them: as text. Whole numbers that passed through a float column lose its .0."""
    if isinstance(kind, (StringType, IntegralType)):
        return _named(column).cast("string")
    if isinstance(kind, (FractionalType, DecimalType)):
        whole = _named(column).cast("decimal(38,0)")
        return F.when(_named(column) == whole, whole.cast("string")).otherwise(_named(column).cast("string"))
    raise DataRefusedError(f"{setting}: column {column} has the type {kind.simpleString()}; ids are text or numbers")


def _number(frame: DataFrame, setting: str, column: str) -> Column:
    kind = frame.schema[column].dataType
    if not isinstance(kind, (NumericType, StringType)):
        raise DataRefusedError(f"{setting}: column {column} has the type {kind.simpleString()}; numbers are wanted")
    number = _named(column).try_cast("double")
    # NaN counts as greater than any number.
    return F.when(F.abs(number) < float("inf"), number)


def _refuse_nulls(frame: DataFrame, setting: str, columns: list[str] | None = None) -> None:
    """Refuse a frame with rows that lack something, or without rows."""
    wanted = columns or frame.columns
    lacking = reduce(Column.__or__, (F.col(name).isNull() for name in wanted))
    n, n_bad = frame.agg(F.count(F.lit(1)), F.count_if(lacking)).collect()[0]
    if not n:
        raise DataRefusedError(f"{setting} has no rows")
    if n_bad:
        raise DataRefusedError(f"{setting}: in {n_bad} of {n} rows one of {', '.join(wanted)} is missing or no number")
