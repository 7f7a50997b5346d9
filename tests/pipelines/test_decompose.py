"""`decompose` on a picture, a clip and tables: what its tables hold, and that nothing is decomposed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.planted_pictures import clip, colour_picture
from factorlake.media import read_clip, read_picture, write_picture
from factorlake.pipelines import decompose
from factorlake.pipelines.context import Context
from factorlake.tables import delta_io, registry
from tests.pipelines.lakes import context_at

pytestmark = pytest.mark.spark


def decomposing(spark: SparkSession, root: str, source: Path | str, **settings: Any) -> Context:
    return context_at(spark, root, "unused", decompose={"input": str(source), **settings})


def factors_of(context: Context, version: str, side: str) -> tuple[list[str], NDArray[np.float64]]:
    """Return the ids and factors (n, rank) of one side, by position."""
    path = context.lake.decomposition(version, f"{side}_factors")
    rows = delta_io.read(context.spark, path).orderBy("position").collect()
    assert [row["position"] for row in rows] == list(range(len(rows)))
    return [row["id"] for row in rows], np.array([row["factor"] for row in rows], np.float64)


def test_a_colour_picture_becomes_factors_and_a_smaller_copy(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    write_picture(str(tmp_path / "lake.png"), colour_picture(96, seed=3))
    pixels = read_picture(str(tmp_path / "lake.png"))
    context = decomposing(spark, lake_root, tmp_path / "lake.png", rank=12)
    result = decompose.run(context)
    version = str(result.model_version)

    # Colours lie side by side and share the row factors.
    matrix = np.concatenate([pixels[:, :, channel] for channel in range(3)], axis=1)
    (_, rows), (_, columns) = (factors_of(context, version, side) for side in ("row", "column"))
    assert (rows.shape, columns.shape) == ((96, 12), (288, 12))
    singular_values = np.linalg.svd(matrix, compute_uv=False)
    best = np.sqrt(np.sum(singular_values[12:] ** 2)) / np.linalg.norm(matrix)
    error = np.linalg.norm(matrix - rows @ columns.T) / np.linalg.norm(matrix)
    assert error == pytest.approx(result.details["figures"]["relative_error"], rel=1e-5)
    assert best <= error <= 1.01 * best
    assert result.details["figures"]["kept_numbers"] == 12 * (96 + 288 + 1)

    copy = read_picture(f"{context.lake.decomposition_folder(version)}/pictures/approximation.png")
    product = np.clip((rows @ columns.T).reshape(96, 3, 96).transpose(0, 2, 1), 0, 1)
    # A picture of 8 bits is at most half a level off, and a little where float32 factors round the other way.
    assert np.max(np.abs(copy - product)) <= 0.5 / 255 + 1e-5

    row = registry.model(spark, context.lake, version)
    assert row is not None
    assert (row["state"], row["objective"], row["rank"], row["n_users"], row["n_items"]) == (
        *("decomposed", "svd", 12),
        *(96, 288),
    )
    trace = delta_io.read(spark, context.lake.decomposition(version, "trace")).orderBy("epoch").collect()
    assert trace[-1]["state"] == "final"
    assert trace[-1]["loss"] == pytest.approx((error * np.linalg.norm(matrix)) ** 2, rel=1e-4)
    page = Path(result.details["report"]).read_text(encoding="utf-8")
    assert "Truncated singular value decomposition" in page
    assert not Path(f"{context.lake.decomposition_folder(version)}/workspace").exists()

    again = decompose.run(context)
    assert (again.exit_code, again.model_version) == (99, version)
    other = decompose.run(decomposing(spark, lake_root, tmp_path / "lake.png", rank=3))
    assert other.model_version != version


def test_a_table_of_rows_has_the_singular_values_of_lapack_whatever_its_order(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    matrix = (rng.standard_normal((300, 6)) * [9, 7, 5, 3, 2, 1]) @ rng.standard_normal((6, 40))
    table = [(f"r{n:03d}", row.tolist()) for n, row in enumerate(matrix)]
    frame = spark.createDataFrame(table, "name string, numbers array<double>")
    columns = {"id_column": "name", "values_column": "numbers", "rank": 4}
    versions = []
    for partitions, order in ((1, "name"), (5, "hash")):
        path = str(tmp_path / f"table{partitions}")
        by = F.col("name") if order == "name" else F.xxhash64("name")
        frame.repartition(partitions, by).sortWithinPartitions(by).write.format("delta").save(path)
        context = decomposing(spark, lake_root, path, **columns)
        result = decompose.run(context)
        versions.append(result.model_version)
    # The same contents are the same matrix: the second table was not decomposed again.
    assert versions[0] == versions[1]
    ids, rows = factors_of(context, str(versions[0]), "row")
    assert ids == [f"r{n:03d}" for n in range(300)]
    expected = np.linalg.svd(matrix, compute_uv=False)[:4]
    # Row factors are U·Σ, rounded to float32.
    np.testing.assert_allclose(np.linalg.norm(rows, axis=0), expected, rtol=1e-5)


def test_gross_errors_of_a_table_of_cells_are_found_exactly(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    low_rank = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 50))
    errors = np.zeros(low_rank.shape)
    wrong = rng.choice(low_rank.size, 90, replace=False)
    errors.flat[wrong] = rng.choice([-20.0, 20.0], 90)
    row, column = np.divmod(np.arange(low_rank.size), 50)
    cells = pd.DataFrame({"row": row, "column": [f"c{n:02d}" for n in column], "value": (low_rank + errors).ravel()})
    spark.createDataFrame(cells).write.parquet(str(tmp_path / "cells"))
    context = decomposing(spark, lake_root, tmp_path / "cells", method="rpca")
    result = decompose.run(context)
    version = str(result.model_version)

    assert result.details["figures"]["rank_found"] == 3
    (_, rows), (names, columns) = (factors_of(context, version, side) for side in ("row", "column"))
    assert names == [f"c{n:02d}" for n in range(50)]
    # Factors are float32.
    assert np.linalg.norm(rows @ columns.T - low_rank) <= 1e-5 * np.linalg.norm(low_rank)
    sparse = delta_io.read(spark, context.lake.decomposition(version, "sparse_cells")).collect()
    found = {(int(cell["row_id"]), int(cell["column_id"][1:])): cell["value"] for cell in sparse}
    assert set(found) == {divmod(int(at), 50) for at in wrong}
    assert found[divmod(int(wrong[0]), 50)] == pytest.approx(errors.flat[wrong[0]], rel=1e-4)


def test_walkers_are_in_the_masks_of_a_clip_and_not_in_its_background(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    drawn = clip(30, 48, 64, seed=2)
    np.savez_compressed(tmp_path / "clip.npz", frames=drawn.frames)
    context = decomposing(spark, lake_root, tmp_path / "clip.npz", method="rpca", tolerance=1e-4, mask_level=0.08)
    result = decompose.run(context)
    folder = f"{context.lake.decomposition_folder(str(result.model_version))}/pictures"
    background, mask = (read_clip(f"{folder}/{name}") for name in ("background", "mask"))
    assert background.shape == mask.shape == (30, 48, 64)
    # Grey levels of 255: nearer to the empty scene than the frames are, where somebody walks.
    truth = drawn.background / 255
    walked = drawn.masks
    assert np.abs(background - truth)[walked].mean() < 0.5 * np.abs(drawn.frames / 255 - truth)[walked].mean()
    assert mask[walked].mean() > 5 * mask[~walked].mean()
    figures = result.details["figures"]
    assert figures["plain_svd_relative_error"] > 0
    # The mask is written as it is told: black or white, a pixel each.
    assert figures["moving_share"] == pytest.approx((mask > 0.5).mean(), abs=1e-12)
    _, rows = factors_of(context, str(result.model_version), "row")
    lengths = np.linalg.norm(rows, axis=0)
    assert figures["leading_singular_values"] == np.sum(lengths >= 0.01 * lengths.max())


def test_topics_of_a_table_of_counts_are_the_planted_words(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    words = [["sea", "ship", "salt"], ["bread", "oven", "flour"], ["goal", "match", "referee"]]
    counts: dict[tuple[str, str], int] = {}
    for document in range(120):
        for word in rng.choice(words[document % 3], 12):
            key = (f"d{document:03d}", str(word))
            counts[key] = counts.get(key, 0) + 1
    cells = pd.DataFrame([(d, w, n) for (d, w), n in counts.items()], columns=["document", "word", "count"])
    spark.createDataFrame(cells).write.format("delta").save(str(tmp_path / "counts"))
    columns = {"row_column": "document", "column_column": "word", "value_column": "count"}
    context = decomposing(spark, lake_root, tmp_path / "counts", method="nmf", rank=3, top_words=3, **columns)
    result = decompose.run(context)
    page = Path(result.details["report"]).read_text(encoding="utf-8")
    (documents, rows), (found, columns_found) = (
        factors_of(context, str(result.model_version), side) for side in ("row", "column")
    )
    assert (rows >= 0).all()
    assert (columns_found >= 0).all()
    best = [{found[at] for at in np.argsort(-topic)[:3]} for topic in columns_found.T]
    assert sorted(map(sorted, best)) == sorted(map(sorted, words))
    assert all(word in page for topic in words for word in topic)
    # Each document is of the topic that it was drawn from.
    named = {frozenset(topic): place for place, topic in enumerate(words)}
    main = [named[frozenset(best[at])] for at in np.argmax(rows, axis=1)]
    assert main == [int(document[1:]) % 3 for document in documents]
    table = np.zeros((len(documents), len(found)))
    for (name, word), n in counts.items():
        table[documents.index(name), found.index(word)] = n
    error = np.linalg.norm(table - rows @ columns_found.T) / np.linalg.norm(table)
    assert error == pytest.approx(result.details["figures"]["relative_error"], rel=1e-4)


def test_what_cannot_be_decomposed_is_named_and_leaves_nothing(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        decompose.run(decomposing(spark, lake_root, tmp_path / "nowhere.png"))
    with pytest.raises(ConfigError, match="no accepted events yet"):
        decompose.run(context_at(spark, lake_root, "unused"))
    (tmp_path / "note.txt").write_text("no table")
    with pytest.raises(ConfigError, match="neither a picture, a clip nor a table"):
        decompose.run(decomposing(spark, lake_root, tmp_path / "note.txt"))
    table = spark.createDataFrame([("a", [1.0, 2.0]), ("b", [1.0, float("nan")])], "id string, values array<double>")
    table.write.parquet(str(tmp_path / "rows"))
    with pytest.raises(DataRefusedError, match=r"lacks the column value \(decompose\.value_column\)"):
        columns = {"row_column": "id", "column_column": "id"}
        decompose.run(decomposing(spark, lake_root, tmp_path / "rows", kind="cells", **columns))
    with pytest.raises(DataRefusedError, match="row b has a value that is missing"):
        decompose.run(decomposing(spark, lake_root, tmp_path / "rows", rank=1))
    with pytest.raises(ConfigError, match="rank 9 is more than a matrix"):
        write_picture(str(tmp_path / "small.png"), np.full((4, 8), 0.5))
        decompose.run(decomposing(spark, lake_root, tmp_path / "small.png", rank=9))
    assert not list(Path(lake_root).glob("main/decompositions/*/workspace"))
    assert not list(Path(lake_root).glob("main/models"))
