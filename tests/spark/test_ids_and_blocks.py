"""Positions, dictionaries and rating blocks depend on contents alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.kernels.hashing import hash_ids
from factorlake.models.parameters import AlsParameters
from factorlake.spark import encode, file_packing, ids
from factorlake.spark.blocks import pack_blocks, unpack, write_blocks
from factorlake.spark.encode import encode_to_files, encode_to_rows, merge_ids
from factorlake.spark.file_packing import pack_files
from factorlake.spark.pairs import PairRule, combine_pairs, fingerprint
from factorlake.spark.task_farm import balanced
from factorlake.types import RatingBlock

pytestmark = pytest.mark.spark


def some_pairs(spark: SparkSession, partitions: int) -> DataFrame:
    rows = [(f"u{(n * 7919) % 97}", f"ü-{(n * 104729) % 41}", 1.0 + n % 3) for n in range(1500)]
    frame = spark.createDataFrame(rows, "user_id string, item_id string, value double")
    return (
        frame.groupBy("user_id", "item_id")
        .agg(F.max("value").alias("value"))
        .repartition(partitions, F.rand(partitions))
    )


def read_blocks(spark: SparkSession, path: str, side: str) -> list[RatingBlock]:
    frame = spark.read.format("delta").load(path).where(F.col("side") == side)
    found = dict(pair for batch in frame.toArrow().to_batches() for pair in unpack(batch))
    return [found[block] for block in sorted(found)]


def packed(spark: SparkSession, partitions: int, path: Path) -> dict[str, list[bytes]]:
    pairs = some_pairs(spark, partitions)
    users = ids.positions(pairs.select(F.col("user_id").alias("id")), 8)
    items = ids.positions(pairs.select(F.col("item_id").alias("id")), 8)
    write_blocks(pack_blocks(encode_to_rows(pairs, drop_zero=False), users, items), str(path))
    return {
        side: [
            b"".join(
                part.tobytes()
                for part in (block.row_ptr, block.neighbours, block.values, block.hashes)
                if part is not None
            )
            for block in read_blocks(spark, str(path), side)
        ]
        for side in ("user", "item")
    }


def test_blocks_are_the_same_bytes_for_any_partitions(spark: SparkSession, tmp_path: Path) -> None:
    one = packed(spark, 1, tmp_path / "one")
    many = packed(spark, 7, tmp_path / "many")
    assert one == many


def bytes_of(block: RatingBlock) -> bytes:
    arrays = (block.row_ptr, block.neighbours, block.values, block.hashes)
    return b"".join(np.asarray(part).tobytes() for part in arrays if part is not None)


def test_blocks_packed_in_files_are_those_packed_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    wanted = packed(spark, 3, tmp_path / "table")
    (tmp_path / "files").mkdir()
    parts = encode_to_files(some_pairs(spark, 5), False, str(tmp_path / "files"))
    parameters = AlsParameters(objective="explicit")
    found = pack_files(spark, parts, str(tmp_path / "files"), 8, parameters, localized=False)
    for side in ("user", "item"):
        assert [bytes_of(stored.load()) for stored in found.blocks[side]] == wanted[side]
    by_spark = ids.positions(some_pairs(spark, 2).select(F.col("user_id").alias("id")), 8)
    assert sorted(found.users.frame.collect()) == sorted(by_spark.frame.collect())
    assert np.array_equal(found.users.block_ptr, by_spark.block_ptr)


def test_localized_blocks_are_the_same_blocks_with_neighbours_counted_among_those_they_see(
    spark: SparkSession, tmp_path: Path
) -> None:
    wanted = packed(spark, 3, tmp_path / "table")
    (tmp_path / "files").mkdir()
    parts = encode_to_files(some_pairs(spark, 4), False, str(tmp_path / "files"))
    found = pack_files(spark, parts, str(tmp_path / "files"), 8, AlsParameters(objective="explicit"), localized=True)
    for side in ("user", "item"):
        for stored, whole in zip(found.blocks[side], wanted[side], strict=True):
            block, seen = stored.load(), stored.neighbour_rows()
            assert np.array_equal(seen, np.unique(seen[block.neighbours]))
            assert bytes_of(replace(block, neighbours=seen[block.neighbours])) == whole


@pytest.mark.parametrize("counted", [10**6, 400])
def test_ids_are_counted_once_however_many_partitions_hold_them(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setattr(encode, "HASHES_COUNTED", counted)
    rows = [(f"u{n % 1000}", f"i{n % 7}") for n in range(4000)]
    pairs = spark.createDataFrame(rows, "user_id string, item_id string").withColumn("value", F.lit(1.0))
    (tmp_path / "parts").mkdir()
    parts = encode_to_files(pairs.repartition(4), False, str(tmp_path / "parts"))
    assert encode.count_ids(parts, "item") == 7
    assert sum(part.n_users for part in parts) > 2000
    # About 400 of the some 2,500 hashes stand for all: the 160 users among them scatter by a twelfth.
    assert encode.count_ids(parts, "user") == (1000 if counted > 4000 else pytest.approx(1000, rel=0.3))


def test_dictionaries_are_merged_where_some_or_all_of_them_are_empty() -> None:
    def dictionary(*ids: str) -> tuple[pa.Array, np.ndarray]:
        return pa.array(ids, pa.string()), hash_ids(ids)

    merged, places = merge_ids([dictionary(), dictionary("x", "y"), dictionary(), dictionary("y", "z")])
    found = merged.ids.to_pylist()
    assert sorted(found) == ["x", "y", "z"]
    assert np.array_equal(merged.hashes, hash_ids(found))
    assert (merged.hashes[1:] > merged.hashes[:-1]).all()
    assert [[found[place] for place in own] for own in places] == [[], ["x", "y"], [], ["y", "z"]]
    merged, places = merge_ids([dictionary(), dictionary()])
    assert (len(merged.ids), len(merged.hashes), [len(own) for own in places]) == (0, 0, [0, 0])


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (pa.int8(), -128, 127),
        (pa.int16(), -32_768, 32_767),
        (pa.int32(), -(2**31), -(2**31) + 300),
        (pa.int64(), 2**63 - 300, 2**63 - 1),
        # Too far apart for a table.
        (pa.int64(), -(2**63), 2**63 - 1),
    ],
)
def test_whole_numbers_are_encoded_as_their_text_is(kind: pa.DataType, low: int, high: int) -> None:
    rng = np.random.default_rng(5)
    numbers = np.r_[low, high, rng.integers(low, high, 20_000, endpoint=True)]
    column = pa.chunked_array([pa.array(part, kind) for part in np.array_split(numbers, 3)])
    found = encode.encode_table(pa.table({"user_id": column, "item_id": column}), drop_zero=False)[0].users
    wanted = encode.encode_table(
        pa.table({"user_id": column.cast(pa.string()), "item_id": column.cast(pa.string())}), drop_zero=False
    )[0].users
    assert found.ids.equals(wanted.ids)
    assert np.array_equal(found.hashes, wanted.hashes)
    assert np.array_equal(found.codes, wanted.codes)
    assert found.codes.dtype == np.int32


def test_ids_that_share_a_hash_keep_apart(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two ids with one xxhash64 are at hand, so the hash is made to say little; on the driver, where it can be."""
    monkeypatch.setattr(encode, "hash_strings", lambda ids: np.array([len(one) for one in ids.to_pylist()], np.int64))
    rows = [(f"{n % 7}", "xyz"[n % 3], 1.0) for n in range(21)]
    tables = [
        pa.table({"user_id": [r[0] for r in part], "item_id": [r[1] for r in part], "value": [r[2] for r in part]})
        for part in (rows[:9], rows[9:])
    ]
    parts = [encode.encode_table(table, drop_zero=False)[0] for table in tables]
    joined = encode.join_parts(parts)
    assert joined.users.ids.to_pylist() == [str(n) for n in range(7)]
    assert [
        (joined.users.ids[int(u)].as_py(), joined.items.ids[int(i)].as_py())
        for u, i in zip(joined.user, joined.item, strict=True)
    ] == [row[:2] for row in rows]
    folder = str(tmp_path)
    for part in parts:
        encode.save_ids(f"{folder}/ids-user-4.ids", joined.users.ids)
        np.save(f"{folder}/ids-user-4.hashes.npy", joined.users.hashes)
        found = file_packing._positions_of(part.users, folder, "user", np.array([0, 0, 0, 0, 0, 7, 7, 7, 7]))
        assert [joined.users.ids[int(position)].as_py() for position in found] == part.users.ids.to_pylist()


def test_blocks_hold_every_rating_once_on_both_sides(spark: SparkSession, tmp_path: Path) -> None:
    packed(spark, 3, tmp_path / "blocks")
    wanted = sorted(row["value"] for row in some_pairs(spark, 1).collect())
    both: dict[str, list[tuple[int, int, float]]] = {}
    for side in ("user", "item"):
        both[side] = []
        for block in read_blocks(spark, str(tmp_path / "blocks"), side):
            rows = np.repeat(np.arange(block.n_rows) + block.first_row, np.diff(block.row_ptr))
            values = np.ones(block.n_obs) if block.values is None else block.values
            both[side] += list(zip(rows.tolist(), block.neighbours.tolist(), values.tolist(), strict=True))
    assert sorted(value for _, _, value in both["user"]) == wanted
    assert sorted(both["user"]) == sorted((u, i, v) for i, u, v in both["item"])


def test_positions_follow_hash_then_id(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(f"id{n}",) for n in range(300)], "id string")
    found = ids.positions(frame, 16)
    rows = found.frame.orderBy("position").collect()
    assert found.n_ids == 300
    assert [row["position"] for row in rows] == list(range(300))
    assert [(row["hash"], row["id"]) for row in rows] == sorted((row["hash"], row["id"]) for row in rows)


def test_new_ids_are_ranked_by_bytes_across_ranges(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "IDS_PER_RANGE", 50)
    names = [f"{chr(0x41 + n % 26)}{n}é" for n in range(400)]
    ranked = ids.rank_new_ids(spark.createDataFrame([(name,) for name in names], "id string"), 1000, len(names))
    found = {row["id"]: row["index"] for row in ranked.collect()}
    assert found == {name: 1000 + rank for rank, name in enumerate(sorted(names, key=str.encode))}


def test_sums_of_a_pair_do_not_depend_on_the_order_of_its_events(spark: SparkSession) -> None:
    rule = PairRule({"play": 0.1, "like": 0.7}, use_value=True, combine="sum", log_scaling=True, keep_zero=False)
    rows = [("u", "i", "play" if n % 3 else "like", 1e-3 * n**3, None, str(n)) for n in range(500)]
    schema = "user_id string, item_id string, event_type string, value double, event_time timestamp, event_id string"
    sums = set()
    for partitions in (1, 2, 5):
        events = spark.createDataFrame(rows, schema).repartition(partitions, F.rand(partitions))
        sums.add(combine_pairs(events, rule).collect()[0]["value"])
    assert len(sums) == 1
    exact = np.log1p(sum((0.1 if n % 3 else 0.7) * 1e-3 * n**3 for n in range(500)))
    # The oracle adds in another order: float64 sums of 500 terms agree to about 500 ulp.
    assert sums.pop() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("combine", "expected"), [("sum", 9.0), ("max", 5.0), ("last", 1.0), ("mean", 3.0), ("count", 3.0)]
)
def test_each_way_to_combine_by_a_worked_example(spark: SparkSession, combine: str, expected: float) -> None:
    rows = [
        ("u", "i", "e", 3.0, "2024-01-01", "a"),
        ("u", "i", "e", 5.0, "2024-01-02", "b"),
        ("u", "i", "e", 1.0, "2024-01-03", "c"),
    ]
    events = spark.createDataFrame(
        rows, "user_id string, item_id string, event_type string, value double, day string, event_id string"
    ).withColumn("event_time", F.to_timestamp("day"))
    rule = PairRule({}, use_value=True, combine=combine, log_scaling=False, keep_zero=True)
    assert combine_pairs(events, rule).collect()[0]["value"] == expected


def test_fingerprint_tells_contents_and_not_their_order(spark: SparkSession) -> None:
    schema = "user_id string, item_id string, event_type string, value double, event_time timestamp, event_id string"
    rows = [(f"u{n}", "i", "e", 1.0, None, str(n)) for n in range(50)]
    same = {fingerprint(spark.createDataFrame(order, schema))["hash"] for order in (rows, rows[::-1])}
    other = fingerprint(spark.createDataFrame(rows[:-1], schema))["hash"]
    assert len(same) == 1 and other not in same


def test_groups_of_blocks_are_balanced_by_observations() -> None:
    weights = [100, 1, 1, 50, 50, 2]
    groups = balanced(list(enumerate(weights)), 2)
    assert sorted(block for group in groups for block in group) == list(range(6))
    loads = [sum(weights[block] for block in group) for group in groups]
    # Graham's bound for the largest-first rule on two groups: at most 7/6 of the best possible, which is 102.
    assert max(loads) <= 7 / 6 * 102
