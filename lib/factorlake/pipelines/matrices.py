"""The matrix that `decompose` works on: a picture or clip in the driver's memory, or a table in files of the root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from factorlake.errors import DataRefusedError
from factorlake.media import clip_matrix, matrix_clip, matrix_picture, picture_matrix, read_clip, read_picture
from factorlake.models.robust_pca import RobustPca
from factorlake.models.row_plan import LocalRowPlan, even_blocks
from factorlake.models.threads import single_threaded_blas
from factorlake.pipelines.context import Context
from factorlake.pipelines.decompose_input import Source
from factorlake.pipelines.decomposed import factor_frame, held_factor_frame
from factorlake.reporting.picture_plates import Plate, picture_plate, separation_plate
from factorlake.spark.compat import task_slots
from factorlake.spark.matrix_tables import StoredMatrix, matrix_of_cells, matrix_of_rows
from factorlake.types import FloatMatrix


@dataclass(frozen=True)
class Drawn:
    """What can be looked at of a decomposed picture or clip; nothing of a table."""

    pictures: Mapping[str, FloatMatrix] = field(default_factory=dict)
    clips: Mapping[str, FloatMatrix] = field(default_factory=dict)
    plates: Mapping[str, Plate] = field(default_factory=dict)
    moving_share: float | None = None
    """Of a clip's pixels in all its frames, those in the mask of the foreground."""


@dataclass(frozen=True)
class OpenMatrix:
    """A matrix, and where its rows lie."""

    spark: SparkSession
    plan: Any
    """A ``RowPlan`` that holds ``held``."""
    held: Any
    shape: tuple[int, int]
    n_cells: int
    row_ids: pa.Array | None
    """None: rows are numbered."""
    column_ids: pa.Array | None
    """None: columns are numbered."""
    frame_shape: tuple[int, ...] | None = None
    """Of a picture, or of each frame of a clip: (height, width) or (height, width, 3)."""
    is_clip: bool = False
    """Whether columns are frames."""

    @property
    def is_local(self) -> bool:
        """Whether the rows are in the driver's memory."""
        return isinstance(self.plan, LocalRowPlan)

    def row_frame(self, factors: Any, scale: NDArray[np.float64]) -> DataFrame:
        """Return (position, id, factor, norm) of row factors that the plan holds, times ``scale`` (rank,)."""
        if self.is_local:
            return factor_frame(self.spark, self.row_names(), factors.whole() * scale)
        names = pa.table({"id": self.row_names(), "position": pa.array(np.arange(self.shape[0]))})
        return held_factor_frame(self.spark.createDataFrame(names), factors, scale)

    def column_frame(self, factors: FloatMatrix) -> DataFrame:
        """Return the same of column factors (n_columns, rank)."""
        return factor_frame(self.spark, self.column_names(), factors)

    def row_names(self) -> pa.Array:
        """Return the id of each row as text."""
        return _names(self.row_ids, self.shape[0])

    def column_names(self) -> pa.Array:
        """Return the id of each column as text."""
        return _names(self.column_ids, self.shape[1])

    @property
    def plan_name(self) -> str:
        """How the rows are worked on, as the trace and the report call it."""
        return "local" if self.is_local else "spark"

    def draw_approximation(self, left: Any, scale: NDArray[np.float64], right: FloatMatrix, error: float) -> Drawn:
        """Return a picture or clip as the product of its factors, and a plate of a picture with what it was."""
        if self.frame_shape is None:
            return Drawn()
        product = (left.whole() * scale) @ right.T
        if self.is_clip:
            return Drawn(clips={"approximation": matrix_clip(product, self.frame_shape)})
        copy = matrix_picture(product, self.frame_shape)
        plate = picture_plate(matrix_picture(self.held.whole(), self.frame_shape), copy, len(scale), error)
        return Drawn({"approximation": copy}, plates={"beside": plate})

    def draw_separation(self, found: RobustPca[Any], mask_level: float) -> Drawn:
        """Return the background, foreground and mask of a clip with a contact sheet, or the two parts of a picture."""
        if self.frame_shape is None:
            return Drawn()
        low_rank = found.separation.low_rank(found.left.whole())
        sparse = found.separation.sparse(found.held.whole())
        # Nothing there is middle grey; what is darker than the background stays darker.
        foreground = sparse / 2 + 0.5
        if not self.is_clip:
            parts = {"low_rank": low_rank, "sparse": foreground}
            pictures = {name: matrix_picture(part, self.frame_shape) for name, part in parts.items()}
            original = matrix_picture(self.held.whole(), self.frame_shape)
            return Drawn(pictures, plates={"beside": picture_plate(original, pictures["low_rank"], found.rank)})
        mask = (np.abs(sparse) >= mask_level).astype(sparse.dtype)
        parts = {"background": low_rank, "foreground": foreground, "mask": mask}
        clips = {name: matrix_clip(part, self.frame_shape) for name, part in parts.items()}
        original = matrix_clip(self.held.whole(), self.frame_shape)
        plate = separation_plate(original, clips["background"], clips["foreground"], clips["mask"])
        moving_share = float(np.count_nonzero(mask) / mask.size)
        return Drawn(clips=clips, plates={"contact_sheet": plate}, moving_share=moving_share)


def _names(ids: pa.Array | None, n: int) -> pa.Array:
    return (pa.array(np.arange(n)) if ids is None else ids).cast(pa.string())


@contextmanager
def open_matrix(context: Context, source: Source, workspace: str) -> Iterator[OpenMatrix]:
    """Bring the matrix to where it is worked on: a picture or clip (pixels by frames) to the driver's threads, a table
    to files under ``workspace``."""
    if source.table is not None:
        os.makedirs(workspace, exist_ok=True)
        yield _stored(context, source, workspace)
        return
    assert source.path is not None
    if source.kind == "picture":
        pixels = read_picture(source.path)
        matrix, frame_shape = picture_matrix(pixels), pixels.shape
    else:
        frames = read_clip(source.path)
        matrix, frame_shape = clip_matrix(frames), frames.shape[1:]
    block_ptr = even_blocks(len(matrix), matrix.itemsize * matrix.shape[1])
    threads = context.settings.train.threads or min(task_slots(context.spark), os.cpu_count() or 1)
    with single_threaded_blas(), LocalRowPlan(block_ptr, threads) as plan:
        shape = (matrix.shape[0], matrix.shape[1])
        is_clip = source.kind == "clip"
        yield OpenMatrix(context.spark, plan, plan.hold(matrix), shape, matrix.size, None, None, frame_shape, is_clip)


def _stored(context: Context, source: Source, workspace: str) -> OpenMatrix:
    assert source.table is not None
    stored: StoredMatrix
    if source.kind == "rows":
        stored = matrix_of_rows(context.spark, source.table, workspace)
        n_cells = stored.n_rows * stored.n_columns
    else:
        stored = matrix_of_cells(context.spark, source.table, workspace)
        n_cells = sum(stored.plan.look(lambda first_row, rows: int(rows.nnz), stored.rows))
    if not n_cells:
        raise DataRefusedError(f"{source.name} has no numbers: there is no matrix to decompose")
    shape = (stored.n_rows, stored.n_columns)
    return OpenMatrix(context.spark, stored.plan, stored.rows, shape, n_cells, stored.row_ids, stored.column_ids)
