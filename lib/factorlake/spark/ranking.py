"""Ranking metrics of lists in frames: figures of each user where the user's rows lie, intervals from sums of blocks.

Users are grouped by a hash of their id; a group becomes arrays once and is judged whole by factorlake.evaluation. What
users are known to have never leaves the JVM: lists are marked by a join, and popularity is counted there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DataType,
    DoubleType,
    FloatType,
    IntegralType,
    LongType,
    StringType,
    StructField,
    StructType,
)

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.intervals import Interval, interval_from_parts
from factorlake.evaluation.list_rows import (
    Popularity,
    check_held_out,
    check_lists,
    compressed_pairs,
    metric_names,
    padded_lists,
    user_figures,
)
from factorlake.spark.arrow_codes import sorted_codes
from factorlake.spark.compat import keep, release
from factorlake.spark.ids import logical_block

GROUPS = 64
"""Groups of users by default; a power of two. Per-user figures do not depend on it."""

LISTED, HELD_OUT, KNOWN = 0, 1, 2
EVERYONE = "all"
_PARTS = "label string, metric string, block int, n bigint, total double, squares double"
_ARROW_PARTS = pa.schema(
    [
        ("label", pa.string()),
        ("metric", pa.string()),
        ("block", pa.int32()),
        ("n", pa.int64()),
        ("total", pa.float64()),
        ("squares", pa.float64()),
    ]
)


@dataclass(frozen=True)
class KnownPairs:
    """What users are known to have, counted once for all lists that are judged on it.

    ``pairs`` (user_id, item_id) each once; ``items`` (item_id, popularity): distinct users of each item; ``users``
    (user_id, n_known, popularity): items of each user, and the sum of their popularity; ``n_users``: number of users.
    """

    pairs: DataFrame
    items: DataFrame
    users: DataFrame
    n_users: int

    def release(self) -> None:
        """Give up what is cached."""
        for frame in (self.users, self.items, self.pairs):
            release(frame)


def count_known(known: DataFrame) -> KnownPairs:
    """Count what users are known to have: three small frames that several calls of `per_user_metrics` read.

    Parameters
    ----------
    known : user_id, item_id, of any type; pairs may be repeated, as in a log. Further columns are ignored.

    Raises
    ------
    DataRefusedError : a column is missing. A null id fails the query with words that say so.
    """
    has_columns(known, "the known pairs", "user_id", "item_id")
    types = shared_types({"the known pairs": known})
    told = F.raise_error(F.lit("a user_id or item_id is null in the known pairs: leave such rows out"))
    typed = with_types(known, types)
    pairs = keep(typed.select(*(F.coalesce(name, told).alias(name) for name in types)).distinct())
    items = keep(pairs.groupBy("item_id").agg(F.count(F.lit(1)).alias("popularity")))
    users = keep(
        pairs.join(items, on="item_id", how="inner")
        .groupBy("user_id")
        .agg(F.count(F.lit(1)).alias("n_known"), F.sum("popularity").alias("popularity"))
    )
    return KnownPairs(pairs, items, users, users.count())


def per_user_metrics(
    lists: DataFrame,
    truth: DataFrame,
    k: int,
    known: DataFrame | KnownPairs | None = None,
    n_groups: int = GROUPS,
) -> DataFrame:
    """Return one row for each user with held-out pairs: user_id, one double a metric, n_truth, n_known (bigint).

    Metrics are those of `metric_names`: ndcg@k, recall@k, recall_min@k, precision@k, map@k, mrr@k, hit@k and, with
    ``known``, novelty@k and popularity_lift@k. A user without a list has 0 of the first seven. Where a user has no
    novelty (nothing listed) or no popularity lift (nothing listed, or nothing known) the column is null. n_known is 0
    without ``known``.

    Parameters
    ----------
    lists : user_id, item_id and rank (whole numbers from 1) or, without a column rank, score (finite; ties go by item
        id, ascending). A pair stands once.
    truth : user_id, item_id: what was held out, each pair once. Users without held-out pairs are not judged.
    k : length of the lists that are judged.
    known : user_id, item_id: what users had, as a frame or as `count_known` made of it. Such pairs are taken out of
        lists, whose ranks close up, and out of the truth.
    n_groups : a power of two: users are grouped by the leading bits of their id's hash; no figure depends on it.

    Ids are of any type that sorts, the same in all frames (whole numbers count as one type). Nothing runs until the
    result is asked for, but for ``known`` given as a frame. Its rows' figures are the same bits as those that
    factorlake.metrics gives for pandas frames, since the same functions judge; a group only decides who is judged
    together.

    Raises
    ------
    ConfigError : k below 1 or ``n_groups`` no power of two.
    DataRefusedError : a column is missing, ids of unlike types; and when the result is asked for, inside Spark's own
        error: null ids, repeated pairs, ranks that are below 1, fractions or repeated, scores that are not finite.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if n_groups < 1 or n_groups & (n_groups - 1):
        raise ConfigError(f"n_groups must be a power of two, got {n_groups}")
    by_rank = "rank" in lists.columns
    has_columns(lists, "the recommendations", "user_id", "item_id", "rank" if by_rank else "score")
    has_columns(truth, "the held-out pairs", "user_id", "item_id")
    counted = count_known(known) if isinstance(known, DataFrame) else known
    frames = {"the recommendations": lists, "the held-out pairs": truth}
    types = shared_types(frames | ({} if counted is None else {"the known pairs": counted.pairs}))
    place = F.col("rank" if by_rank else "score").cast("double")
    rows = _rows(with_types(lists, types), LISTED, place).unionByName(_rows(with_types(truth, types), HELD_OUT))
    if counted is None:
        rows = rows.withColumns({"is_known": F.lit(False), "popularity": F.lit(None).cast("bigint")})
    else:
        key = ["user_id", "item_id"]
        marked = counted.pairs.withColumn("is_known", F.lit(True))
        rows = rows.join(marked, on=key, how="left").join(counted.items, on="item_id", how="left")
        facts = _rows(
            counted.users.withColumn("item_id", F.lit(None).cast(types["item_id"])),
            KNOWN,
            F.col("n_known").cast("double"),
            F.col("popularity"),
        )
        rows = rows.unionByName(facts.withColumn("is_known", F.lit(True)))
    names = metric_names(k, counted is not None)
    schema = StructType(
        [
            StructField("user_id", types["user_id"]),
            *(StructField(name, DoubleType()) for name in names),
            StructField("n_truth", LongType()),
            StructField("n_known", LongType()),
        ]
    )
    # A closure that held the frames could not be sent to a worker.
    n_users = None if counted is None else counted.n_users

    def judge(table: pa.Table) -> pa.Table:
        return _judge(table, k, by_rank, n_users)

    in_groups = rows.withColumn("block", logical_block(F.xxhash64("user_id"), n_groups))
    return in_groups.groupBy("block").applyInArrow(judge, schema)


def count_listed(
    lists: DataFrame, users: DataFrame, k: int, catalogue: DataFrame, known: KnownPairs | None = None
) -> tuple[int, int]:
    """Return how many items of the catalogue stand in the first k of at least one user's list, and how many there are:
    coverage@k is their ratio. Nothing leaves the JVM.

    Parameters
    ----------
    lists, k : as in `per_user_metrics`.
    users : user_id: those whose lists count, each once or more.
    catalogue : item_id, each once or more. Listed items outside it do not count.
    known : pairs that are taken out of lists first.

    Raises
    ------
    DataRefusedError : a column is missing or ids are of unlike types.
    """
    by_rank = "rank" in lists.columns
    has_columns(lists, "the recommendations", "user_id", "item_id", "rank" if by_rank else "score")
    types = shared_types({"the recommendations": lists} | ({} if known is None else {"the known pairs": known.pairs}))
    rows = with_types(lists, types).join(users.select("user_id"), on="user_id", how="left_semi")
    if known is not None:
        rows = rows.join(known.pairs, on=["user_id", "item_id"], how="left_anti")
    order = [F.col("rank")] if by_rank else [F.col("score").cast("double").desc(), F.col("item_id")]
    place = F.row_number().over(Window.partitionBy("user_id").orderBy(*order))
    first = rows.withColumn("place", place).where(F.col("place") <= k).select("item_id").distinct()
    first = first.withColumn("is_listed", F.lit(1))
    items = catalogue.select(F.col("item_id").cast(types["item_id"]).alias("item_id")).distinct()
    counts = items.join(first, on="item_id", how="left").agg(F.count("is_listed"), F.count(F.lit(1))).collect()[0]
    return int(counts[0]), int(counts[1])


def metric_intervals(
    per_user: DataFrame,
    metrics: Sequence[str],
    labels: Sequence[str] = (),
    level: float = 0.95,
    n_groups: int = GROUPS,
) -> dict[tuple[str, str], Interval]:
    """Return the mean of each metric with its interval over users, of each label: (label, metric) → interval.

    Parameters
    ----------
    per_user : user_id, the metrics as doubles, and the labels' columns; one row a user, as `per_user_metrics` gives
        them. A user whose metric is null is left out of that metric.
    labels : names of text columns; each value but null is a slice of its users, and a user is in one slice of each
        column. None: one slice, "all".
    level : coverage of the intervals.
    n_groups : a power of two; sums are taken over groups of users by hash, and these added in their order, so that the
        result does not depend on partitions. Another number may change last bits.

    Labels or metrics without a user are absent.

    Raises
    ------
    NumericalError : a figure is NaN or infinite.
    """
    wanted = per_user.select(
        "user_id",
        *(F.col(f"`{name}`").cast("double").alias(name) for name in metrics),
        *(F.col(f"`{name}`").cast("string").alias(f"label {at}") for at, name in enumerate(labels)),
        logical_block(F.xxhash64("user_id"), n_groups).alias("block"),
    )
    n_labels = len(labels)

    def add_up(table: pa.Table) -> pa.Table:
        return _part_sums(table, metrics, n_labels)

    parts = wanted.groupBy("block").applyInArrow(add_up, _PARTS).toPandas()
    parts = parts.sort_values(["label", "metric", "block"], ignore_index=True)
    rows = parts.itertuples(index=False)
    intervals = {}
    for key, group in groupby(rows, key=lambda row: (row.label, row.metric)):
        _, _, _, n, totals, squares = zip(*group, strict=True)
        intervals[key] = interval_from_parts(n, totals, squares, level)
    return intervals


def has_columns(frame: DataFrame, told: str, *names: str) -> None:
    """Refuse a frame that lacks a column.

    Raises
    ------
    DataRefusedError : it does; ``told`` says which frame.
    """
    for name in names:
        if name not in frame.columns:
            asked = "rank or score" if name == "score" else name
            raise DataRefusedError(
                f"{told} have no column {asked}; the frame has {', '.join(frame.columns) or 'no columns'}: rename the "
                "right one"
            )


def shared_types(
    frames: Mapping[str, DataFrame], columns: Sequence[str] = ("user_id", "item_id")
) -> dict[str, DataType]:
    """Return the type of each column of ids that all frames share, whole numbers as bigint.

    Raises
    ------
    DataRefusedError : frames whose types are unlike.
    """
    types = {}
    for column in columns:
        of_frame = {told: _wide(frame.schema[column].dataType) for told, frame in frames.items()}
        (first, wanted), *others = of_frame.items()
        for told, kind in others:
            if kind != wanted:
                raise DataRefusedError(
                    f"{column} is {wanted.simpleString()} in {first} and {kind.simpleString()} in {told}: cast one, or "
                    "no pair would meet"
                )
        types[column] = wanted
    return types


def with_types(frame: DataFrame, types: Mapping[str, DataType]) -> DataFrame:
    """Return a frame with its columns of ids in the given types."""
    return frame.withColumns({name: F.col(name).cast(kind) for name, kind in types.items()})


def _wide(kind: DataType) -> DataType:
    if isinstance(kind, IntegralType):
        return LongType()
    if isinstance(kind, FloatType):
        return DoubleType()
    return StringType() if isinstance(kind, StringType) else kind


def _rows(frame: DataFrame, kind: int, place: F.Column | None = None, popularity: F.Column | None = None) -> DataFrame:
    chosen = [F.col("user_id"), F.col("item_id"), F.lit(kind).alias("kind")]
    chosen.append((F.lit(None).cast("double") if place is None else place).alias("place"))
    return frame.select(*chosen, *([] if popularity is None else [popularity.alias("popularity")]))


def _judge(table: pa.Table, k: int, by_rank: bool, n_users: int | None) -> pa.Table:
    """Return the figures of a group's users, ascending by id."""
    kind = table["kind"].to_numpy()
    place = table["place"].to_numpy()
    is_known = pc.fill_null(table["is_known"], False).to_numpy(zero_copy_only=False)
    popularity = pc.fill_null(table["popularity"], 0).to_numpy()
    named = table["user_id"].is_valid().to_numpy(zero_copy_only=False)
    named &= table["item_id"].is_valid().to_numpy(zero_copy_only=False) | (kind == KNOWN)
    if not named[kind != KNOWN].all():
        raise DataRefusedError(
            "a user_id or item_id is null in the recommendations or the held-out pairs: leave such rows out"
        )
    item, _ = sorted_codes(table["item_id"])
    asked = table["user_id"].filter(pa.array((kind == HELD_OUT) & ~is_known))
    ids = asked.unique()
    ids = ids.take(pc.sort_indices(ids))
    user = pc.fill_null(pc.index_in(table["user_id"], value_set=ids), -1).to_numpy()
    listed, held = kind == LISTED, kind == HELD_OUT
    everybody, _ = sorted_codes(table["user_id"])
    check_lists(everybody[listed], item[listed], place[listed], by_rank)
    check_held_out(everybody[held], item[held])
    judged = user >= 0
    listed, held = listed & judged & ~is_known, held & judged & ~is_known
    places = place[listed] if by_rank else -place[listed]
    lists = padded_lists(user[listed], item[listed], places, item[listed], len(ids), k)
    truth_ptr, truth_items = compressed_pairs(user[held], item[held], len(ids))
    n_known, facts = np.zeros(len(ids), np.int64), None
    if n_users is not None:
        of_user = (kind == KNOWN) & judged
        n_known[user[of_user]] = place[of_user].astype(np.int64)
        own = np.zeros(len(ids))
        own[user[of_user]] = popularity[of_user] / place[of_user]
        of_item = np.zeros(int(item.max(initial=-1)) + 1, np.int64)
        of_item[item[listed]] = popularity[listed]
        facts = Popularity(of_item, n_users, own)
    columns = {"user_id": ids}
    for name, figure in user_figures(lists, truth_ptr, truth_items, k, facts).items():
        values, missing = np.zeros(len(ids)), np.ones(len(ids), np.bool_)
        values[figure.users], missing[figure.users] = figure.values, False
        columns[name] = pa.array(values, mask=missing)
    return pa.table(columns | {"n_truth": pa.array(np.diff(truth_ptr)), "n_known": pa.array(n_known)})


def _part_sums(table: pa.Table, metrics: Sequence[str], n_labels: int) -> pa.Table:
    """Return counts, sums and squared differences of each label and metric of a block, users in order of their ids."""
    table = table.sort_by("user_id")
    block = table["block"][0].as_py()
    rows = []
    for at in range(max(n_labels, 1)):
        if n_labels:
            code, names = sorted_codes(table[f"label {at}"])
            labels = names.to_pylist()
        else:
            code, labels = np.zeros(len(table), np.int64), [EVERYONE]
        for metric in metrics:
            has = table[metric].is_valid().to_numpy(zero_copy_only=False) & (code >= 0)
            of, values = code[has], table[metric].to_numpy()[has]
            n = np.bincount(of, minlength=len(labels))
            totals = np.bincount(of, weights=values, minlength=len(labels))
            means = totals / np.maximum(n, 1)
            squares = np.bincount(of, weights=(values - means[of]) ** 2, minlength=len(labels))
            rows += [
                (label, metric, block, *numbers)
                for label, *numbers in zip(labels, n.tolist(), totals.tolist(), squares.tolist(), strict=True)
                if numbers[0]
            ]
    columns = zip(*rows, strict=True) if rows else [[] for _ in _ARROW_PARTS]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _ARROW_PARTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_ARROW_PARTS)
