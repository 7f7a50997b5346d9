"""What every method of `decompose` hands back, and its factors as frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from factorlake.reporting.content import Drawing, Topic
from factorlake.reporting.picture_plates import Plate
from factorlake.types import FloatMatrix

FACTOR_SCHEMA = "position bigint, id string, factor array<float>, norm float"


class PlacedRows(Protocol):
    """Rows that tasks can ask for by position."""

    def at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """Return the rows at some positions."""


@dataclass(frozen=True)
class Step:
    """One pass, iteration or half step, as a row of the trace."""

    epoch: int
    state: str
    loss: float
    seconds: float
    side: str = "both"
    observed_loss: float | None = None
    regularization_loss: float | None = None
    metric_name: str | None = None
    metric: float | None = None


@dataclass(frozen=True)
class Decomposed:
    """A matrix taken apart."""

    rows: DataFrame
    """(position, id, factor, norm) of each row."""
    columns: DataFrame
    """The same of each column."""
    shape: tuple[int, int]
    n_cells: int
    """Numbers of the matrix that were told; of a dense one all."""
    rank: int
    figures: Mapping[str, float]
    """What the registry and the result line keep."""
    facts: tuple[tuple[str, str], ...]
    """What the report tells: (what, figure)."""
    trace: tuple[Step, ...]
    plan: str
    sparse_cells: DataFrame | None = None
    """(row_id, column_id, value) of the sparse part of a table."""
    pictures: Mapping[str, FloatMatrix] = field(default_factory=dict)
    """File name without ending → pixels (height, width) or (height, width, 3) within [0, 1]."""
    clips: Mapping[str, FloatMatrix] = field(default_factory=dict)
    """Folder name → frames (n_frames, height, width) or (n_frames, height, width, 3) within [0, 1]."""
    plates: Mapping[str, Plate] = field(default_factory=dict)
    """File name without ending → pictures in a grid, for the report too."""
    drawings: tuple[Drawing, ...] = ()
    topics: tuple[Topic, ...] = ()
    held: tuple[Any, ...] = ()
    """What the frames read: files that go with the last who holds them."""


def factor_frame(spark: SparkSession, ids: Sequence[str], factors: FloatMatrix) -> DataFrame:
    """Return (position, id, factor, norm) of factors (n, rank) that the driver holds."""
    batch = _factor_batch(np.arange(len(factors)), pa.array(ids, pa.string()), factors)
    return spark.createDataFrame(pa.Table.from_batches([batch]))


def held_factor_frame(numbered: DataFrame, held: PlacedRows, scale: NDArray[np.float64]) -> DataFrame:
    """Return the same of rows in files that tasks see, each factor times ``scale`` (rank,); ``numbered`` is (id,
    position)."""

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            position = batch["position"].to_numpy()
            if len(position):
                yield _factor_batch(position, batch["id"].cast(pa.string()), held.at(position) * scale)

    return numbered.select("id", "position").mapInArrow(rows, FACTOR_SCHEMA)


def _factor_batch(position: NDArray[np.integer], ids: pa.Array, factors: FloatMatrix) -> pa.RecordBatch:
    narrow = np.ascontiguousarray(factors, np.float32)
    offsets = pa.array(np.arange(len(narrow) + 1, dtype=np.int32) * narrow.shape[1])
    norm = np.sqrt(np.sum(narrow.astype(np.float64) ** 2, axis=1)).astype(np.float32)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(position.astype(np.int64)),
            ids,
            pa.ListArray.from_arrays(offsets, pa.array(narrow.reshape(-1))),
            pa.array(norm),
        ],
        names=["position", "id", "factor", "norm"],
    )
