"""Matrices as rows in files: from tables to blocks, and decompositions of them in tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.models.row_plan import CsrRows, LocalRowPlan, even_blocks
from factorlake.models.truncated_svd import SvdParameters, truncated_svd
from factorlake.spark.matrix_tables import StoredMatrix, matrix_of_cells, matrix_of_rows
from factorlake.spark.row_plan import StoredRowPlan
from factorlake.types import FloatMatrix

pytestmark = pytest.mark.spark

PARAMETERS = SvdParameters(rank=5)


def rows_frame(spark: SparkSession, ids: list[object], rows: FloatMatrix, partitions: int) -> DataFrame:
    kind = "bigint" if isinstance(ids[0], int) else "string"
    number = "float" if rows.dtype == np.float32 else "double"
    table = list(zip(ids, rows.tolist(), strict=True))
    return spark.createDataFrame(table, f"id {kind}, values array<{number}>").repartition(partitions)


def whole(matrix: StoredMatrix) -> FloatMatrix:
    return np.concatenate([rows if isinstance(rows, np.ndarray) else rows.toarray() for rows in matrix.rows.blocks()])


def test_stored_rows_give_the_bits_of_rows_in_memory(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    dense = rng.standard_normal((400, 60)).astype(np.float32)
    block_ptr = even_blocks(400, 240)
    stored_plan = StoredRowPlan(spark, str(tmp_path), block_ptr)
    with LocalRowPlan(block_ptr, 2) as plan:
        local = truncated_svd(plan, plan.hold(dense), 60, PARAMETERS)
    stored = truncated_svd(stored_plan, stored_plan.hold(dense), 60, PARAMETERS)
    np.testing.assert_array_equal(stored.singular_values, local.singular_values)
    np.testing.assert_array_equal(stored.right, local.right)
    np.testing.assert_array_equal(stored.left.whole(), local.left.whole())
    assert stored.error == local.error
    # What tasks told by files is gone, and so are rows that nobody holds: only U is left.
    assert [path.name for path in tmp_path.iterdir()] == [Path(stored.left.folder).name]


def test_what_is_told_of_a_block_may_be_large(spark: SparkSession, tmp_path: Path) -> None:
    plan = StoredRowPlan(spark, str(tmp_path), np.array([0, 3, 5]))
    told = plan.look(lambda first_row: np.full(100_000, first_row))
    assert [(len(one), one[0], one[-1]) for one in told] == [(100_000, 0, 0), (100_000, 3, 3)]
    assert not list(tmp_path.iterdir())


def test_an_error_in_a_task_is_raised_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    rows = np.ones((50, 30))
    rows[31, 2] = np.nan
    plan = StoredRowPlan(spark, str(tmp_path), even_blocks(50, 240))
    with pytest.raises(NumericalError, match="row 31 of the matrix"):
        truncated_svd(plan, plan.hold(rows), 30, PARAMETERS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_delta_table_of_rows_has_numpys_singular_values(
    spark: SparkSession, tmp_path: Path, dtype: type[np.floating]
) -> None:
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((300, 8)) @ rng.standard_normal((8, 40))).astype(dtype)
    ids = rng.permutation(300).tolist()
    rows_frame(spark, ids, rows, 3).write.format("delta").save(str(tmp_path / "table"))
    matrix = matrix_of_rows(spark, spark.read.format("delta").load(str(tmp_path / "table")), str(tmp_path / "blocks"))
    assert matrix.row_ids.to_pylist() == list(range(300)) and matrix.n_columns == 40
    np.testing.assert_array_equal(whole(matrix), rows[np.argsort(ids)])
    assert whole(matrix).dtype == dtype
    found = truncated_svd(matrix.plan, matrix.rows, 40, PARAMETERS)
    truth = np.linalg.svd(rows.astype(np.float64), compute_uv=False)[:5]
    # Units of rounding, over a few hundred products.
    np.testing.assert_allclose(found.singular_values, truth, rtol=1e4 * float(np.finfo(dtype).eps))


def test_a_parquet_table_of_cells_has_numpys_singular_values(spark: SparkSession, tmp_path: Path) -> None:
    truth = scipy.sparse.random_array((200, 50), density=0.1, format="coo", rng=np.random.default_rng(4))
    # Text, whose order by bytes is another than that of numbers; rows and columns without a cell are none.
    row_names, column_names = (np.array([f"{side}{n}" for n in range(200)]) for side in ("ä", "z"))
    cells = pd.DataFrame({"row": row_names[truth.row], "column": column_names[truth.col], "value": truth.data})
    spark.createDataFrame(cells).repartition(3).write.parquet(str(tmp_path / "table"))
    matrix = matrix_of_cells(spark, spark.read.parquet(str(tmp_path / "table")), str(tmp_path / "blocks"))
    expected = cells.pivot(index="row", columns="column", values="value").fillna(0.0)
    order = sorted(expected.index, key=str.encode), sorted(expected.columns, key=str.encode)
    assert matrix.column_ids is not None
    assert (matrix.row_ids.to_pylist(), matrix.column_ids.to_pylist()) == order
    np.testing.assert_array_equal(whole(matrix), expected.loc[order[0], order[1]].to_numpy())
    found = truncated_svd(matrix.plan, matrix.rows, matrix.n_columns, SvdParameters(rank=5, tolerance=0))
    values = np.linalg.svd(truth.toarray(), compute_uv=False)[:5]
    # As exact as the passes make values that lie close to others.
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-3)
    # The same blocks in memory give the same bits.
    csr = scipy.sparse.csr_array(expected.loc[order[0], order[1]].to_numpy())
    block_ptr = matrix.plan.block_ptr
    with LocalRowPlan(block_ptr, 2) as plan:
        parameters = SvdParameters(rank=5, tolerance=0)
        local = truncated_svd(plan, CsrRows.of(csr, block_ptr), matrix.n_columns, parameters)
    np.testing.assert_array_equal(found.singular_values, local.singular_values)
    np.testing.assert_array_equal(found.right, local.right)


def test_order_and_partitions_change_no_bit(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((120, 20))
    ids: list[object] = [f"row {n}" for n in range(120)]
    shuffled = rng.permutation(120)
    frames = [
        rows_frame(spark, ids, rows, 1),
        rows_frame(spark, [ids[n] for n in shuffled], rows[shuffled], 5),
    ]
    as_rows = [matrix_of_rows(spark, frame, str(tmp_path / f"r{n}")) for n, frame in enumerate(frames)]
    cells = [
        frame.select("id", F.posexplode("values").alias("column", "value")).where("value > 0").repartition(n + 1)
        for n, frame in enumerate(frames)
    ]
    as_cells = [matrix_of_cells(spark, frame, str(tmp_path / f"c{n}")) for n, frame in enumerate(cells)]
    for one, other in (as_rows, as_cells):
        assert one.row_ids.equals(other.row_ids)
        np.testing.assert_array_equal(one.plan.block_ptr, other.plan.block_ptr)
        np.testing.assert_array_equal(whole(one), whole(other))
    np.testing.assert_array_equal(whole(as_cells[0]), np.maximum(whole(as_rows[0]), 0))


def test_cells_without_values_are_ones(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame([(3, 1), (-1, 1), (3, 0)], "r bigint, c int")
    matrix = matrix_of_cells(spark, frame, str(tmp_path))
    assert matrix.column_ids is not None
    assert (matrix.row_ids.to_pylist(), matrix.column_ids.to_pylist()) == ([-1, 3], [0, 1])
    np.testing.assert_array_equal(whole(matrix), [[0, 1], [1, 1]])


def test_rows_that_make_no_matrix_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    kind = "id string, values array<double>"
    refused = {
        "row b has 3 numbers, another row 2": [("a", [1.0, 2.0]), ("b", [1.0, 2.0, 3.0])],
        r"row b has no array \(null\)": [("a", [1.0]), ("b", None)],
        "row b has a value that is missing": [("a", [1.0, 2.0]), ("b", [1.0, None])],
        "row c has a value that is missing": [("a", [1.0, 2.0]), ("c", [1.0, float("nan")])],
        "row a has a value that is missing": [("a", [float("inf"), 2.0]), ("c", [1.0, 1.0])],
        r"no id \(null\)": [(None, [1.0]), ("c", [1.0])],
        "row a occurs more than once": [("a", [1.0]), ("c", [1.0]), ("a", [1.0])],
        "table of rows is empty": [],
        "arrays of column values are empty": [("a", [])],
    }
    for message, rows in refused.items():
        with pytest.raises(DataRefusedError, match=message):
            matrix_of_rows(spark, spark.createDataFrame(rows, kind).coalesce(1), str(tmp_path))
    with pytest.raises(DataRefusedError, match="column value is string"):
        matrix_of_rows(spark, spark.createDataFrame([("a", "x")], "id string, value string"), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_cells_that_make_no_matrix_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    kind = "user string, item string, value double"
    refused = {
        r"cell \(a, y\) has a value that is missing": [("a", "x", 1.0), ("a", "y", None)],
        r"cell \(b, x\) has a value that is missing": [("a", "x", 1.0), ("b", "x", float("nan"))],
        r"no row id": [(None, "x", 1.0)],
        r"no column id": [("a", None, 1.0)],
        r"cell \(a, x\) occurs more than once": [("a", "x", 1.0), ("b", "x", 1.0), ("a", "x", 2.0)],
        "table of cells is empty": [],
    }
    for message, cells in refused.items():
        with pytest.raises(DataRefusedError, match=message):
            matrix_of_cells(spark, spark.createDataFrame(cells, kind).repartition(2), str(tmp_path))
    with pytest.raises(DataRefusedError, match="column value is string"):
        text = spark.createDataFrame([("a", "x", "1")], "r string, c string, value string")
        matrix_of_cells(spark, text, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_workers_do_not_see_is_refused(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("a", [1.0])], "id string, values array<double>")
    with pytest.raises(ConfigError, match="workers do not see the folder s3://bucket/blocks"):
        matrix_of_rows(spark, frame, "s3://bucket/blocks")
