"""The columns of a frame of ratings, checked as pyspark.ml checks them; text is an id as well."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, FloatType, IntegerType, IntegralType, NumericType, StringType

from factorlake.errors import ConfigError, DataRefusedError


def named(column: str) -> Column:
    """Return the column of that very name, whatever signs are in it."""
    return F.col("`" + column.replace("`", "``") + "`")


def column_type(dataset: DataFrame, column: str) -> DataType:
    """Return a column's type.

    Raises
    ------
    DataRefusedError : there is no such column.
    """
    types = {field.name: field.dataType for field in dataset.schema.fields}
    if column not in types:
        raise DataRefusedError(f"column {column!r} is not in the frame, which has {', '.join(types) or 'no columns'}")
    return types[column]


def id_column(dataset: DataFrame, column: str) -> Column:
    """Return a column of ids: text as it is, numbers as int.

    A null, a number outside the range of an int or one with a fraction fails the query, with pyspark.ml's words.

    Raises
    ------
    DataRefusedError : there is no such column, or it holds neither numbers nor text.
    """
    found = possible_id_column(dataset, column)
    if isinstance(column_type(dataset, column), (IntegerType, StringType)):
        told = F.lit(f"{column} Ids MUST NOT be Null")
    else:
        told = F.concat(
            F.lit(
                "ALS only supports non-Null values in Integer range and without fractional part for column "
                f"{column}, but got "
            ),
            F.coalesce(named(column).cast("string"), F.lit("null")),
            F.lit("; factorlake takes larger ids as text"),
        )
    return F.when(found.isNull(), F.raise_error(told)).otherwise(found)


def possible_id_column(dataset: DataFrame, column: str) -> Column:
    """Return a column of ids as `id_column` does, but null for what can be no id.

    Raises
    ------
    DataRefusedError : there is no such column, or it holds neither numbers nor text.
    """
    kind, values = column_type(dataset, column), named(column)
    if isinstance(kind, (IntegerType, StringType)):
        return values
    if not isinstance(kind, NumericType):
        raise DataRefusedError(f"column {column!r} has the type {kind.simpleString()}; ids are numbers or text")
    narrow = values.try_cast("int")
    return narrow if isinstance(kind, IntegralType) else F.when(values == narrow, narrow)


def key_column(dataset: DataFrame, column: str, kind: DataType) -> Column:
    """Return the ids of ``column``, an int or text already, as a model knows them: ``kind``, int or string.

    Raises
    ------
    DataRefusedError : they are text, and the model's are numbers.
    """
    if isinstance(kind, IntegerType) and isinstance(column_type(dataset, column), StringType):
        raise DataRefusedError(f"column {column!r} is text, but the model was trained on numbers; cast the column")
    return named(column).cast(kind)


def rating_column(dataset: DataFrame, column: str) -> Column:
    """Return a column of ratings as float; 1 for every row where ``column`` is empty.

    A null or NaN fails the query, with pyspark.ml's words.

    Raises
    ------
    DataRefusedError : there is no such column, or it holds no numbers.
    """
    values = possible_rating_column(dataset, column)
    bad = values.isNull() | F.isnan(values)
    return F.when(bad, F.raise_error(F.lit("Ratings MUST NOT be Null or NaN"))).otherwise(values)


def possible_rating_column(dataset: DataFrame, column: str) -> Column:
    """Return a column of ratings as `rating_column` does, but with what can be no rating left in it.

    Raises
    ------
    DataRefusedError : there is no such column, or it holds no numbers.
    """
    if not column:
        return F.lit(1.0).cast("float")
    kind = column_type(dataset, column)
    if not isinstance(kind, NumericType):
        raise DataRefusedError(f"column {column!r} has the type {kind.simpleString()}; ratings are numbers")
    return named(column).cast("double").cast("float")


def check_new_column(dataset: DataFrame, column: str) -> None:
    """Refuse to add a column that is there.

    Raises
    ------
    ConfigError : it is.
    """
    if column in dataset.columns:
        raise ConfigError(f"Column {column} already exists; choose another predictionCol")


def combined_pairs(pairs: DataFrame, implicit: bool) -> DataFrame:
    """Return (user_id, item_id, value) with one row a pair: the sum of its ratings (implicit) or their mean (explicit).

    Without a value every rating is 1. The sum runs over the sorted ratings, so that it does not depend on the order of
    rows.
    """
    if "value" not in pairs.columns:
        pairs = pairs.withColumn("value", F.lit(1.0))
    ratings = F.array_sort(F.collect_list(F.col("value").cast("double")))
    total = F.aggregate(ratings, F.lit(0.0), lambda so_far, value: so_far + value)
    value = total if implicit else total / F.count("value")
    return pairs.groupBy("user_id", "item_id").agg(value.cast(FloatType()).alias("value"))
