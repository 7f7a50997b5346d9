"""`decompose --method rpca`: what has low rank and what is sparse, of a clip, a picture or a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from factorlake.models.robust_pca import RobustPca, RobustPcaParameters, robust_pca
from factorlake.models.truncated_svd import SvdParameters, truncated_svd
from factorlake.pipelines.context import Context
from factorlake.pipelines.decompose_input import Source
from factorlake.pipelines.decomposed import Decomposed, Step
from factorlake.pipelines.matrices import OpenMatrix, open_matrix
from factorlake.reporting.decomposition_plots import convergence_figure
from factorlake.reporting.text import count, figure, share
from factorlake.spark.task_farm import mapped

TOLERANCE = 1e-7
LEADING = 0.01
"""Share of the largest singular value from which one counts as leading: in what a camera took, noise has the rest."""
CELLS_AT_ONCE = 100_000
SPARSE_SCHEMA = "row_id string, column_id string, value float"


def run(context: Context, source: Source, workspace: str) -> Decomposed:
    """Separate the matrix: row factors are UΣ of the low-rank part, column factors V; the rest is the sparse part.

    Beside it the plain short cut is told: the best approximation of the same rank, which takes what moves for its
    directions, too.
    """
    settings = context.settings.decompose
    parameters = RobustPcaParameters(
        sparsity=settings.sparsity,
        tolerance=settings.tolerance or TOLERANCE,
        max_iterations=settings.iterations,
        seed=context.settings.seed,
    )
    with open_matrix(context, source, workspace) as matrix:
        found = robust_pca(
            matrix.plan,
            matrix.held,
            matrix.shape[1],
            parameters,
            on_iteration=lambda one: context.progress(
                f"iteration {one.iteration}: residual {one.residual:.2e}, rank {one.rank}, "
                f"{one.nonzeros:,} cells in the sparse part ({one.seconds:.2f} s)"
            ),
        )
        cells = matrix.shape[0] * matrix.shape[1]
        figures = {
            "relative_residual": found.residual,
            "rank_found": float(found.rank),
            "nonzeros": float(found.nonzeros),
            "sparsity": found.sparsity,
            "iterations": float(found.iterations),
        }
        plain = _plain_error(matrix, found, context.settings.seed)
        if plain is not None:
            figures["plain_svd_relative_error"] = plain
        trace = tuple(
            Step(
                epoch=one.iteration,
                state="after",
                loss=one.objective,
                seconds=one.seconds,
                metric_name="residual",
                metric=one.residual,
            )
            for one in found.trace
        )
        drawn = matrix.draw_separation(found, settings.mask_level)
        leading = int(np.sum(found.singular_values >= LEADING * found.singular_values[:1]))
        figures["leading_singular_values"] = float(leading)
        moving: tuple[tuple[str, str], ...] = ()
        if drawn.moving_share is not None:
            figures["moving_share"] = drawn.moving_share
            moving = (("pixels in the mask of the foreground", share(drawn.moving_share, 1)),)
        return Decomposed(
            rows=matrix.row_frame(found.left, np.ones(found.rank)),
            columns=matrix.column_frame(found.right),
            shape=matrix.shape,
            n_cells=matrix.n_cells,
            rank=found.rank,
            figures=figures,
            facts=(
                ("rows × columns", f"{count(matrix.shape[0])} × {count(matrix.shape[1])}"),
                ("rank of the low-rank part", count(found.rank)),
                (f"of it singular values above {share(LEADING, 1)} of the largest", count(leading)),
                ("cells of the sparse part", f"{count(found.nonzeros)} ({share(found.nonzeros, cells)})"),
                *moving,
                ("‖D − L − S‖ / ‖D‖", f"{found.residual:.2e}"),
                ("λ", figure(found.sparsity, 6)),
                ("iterations", f"{count(found.iterations)}, ended by: {found.stopped}"),
                ("error of the best approximation of that rank", "–" if plain is None else figure(plain)),
                ("held by", matrix.plan_name),
            ),
            trace=trace,
            plan=matrix.plan_name,
            sparse_cells=_sparse_cells(matrix, found) if source.table is not None else None,
            pictures=drawn.pictures,
            clips=drawn.clips,
            plates=drawn.plates,
            drawings=(convergence_figure(trace, parameters.tolerance),),
            held=(found.left, found.held),
        )


def _plain_error(matrix: OpenMatrix, found: RobustPca, seed: int) -> float | None:
    """Return ‖D − UΣVᵀ‖/‖D‖ of the best approximation of the low-rank part's rank; None of rank 0."""
    if not found.rank:
        return None
    parameters = SvdParameters(rank=found.rank, seed=seed)
    best = truncated_svd(matrix.plan, matrix.held, matrix.shape[1], parameters)
    assert best.error is not None
    return best.error.relative


def _sparse_cells(matrix: OpenMatrix, found: RobustPca) -> DataFrame:
    """Return (row_id, column_id, value) of the sparse part; each task reads some blocks from their files."""
    files, block_ptr, separation = found.held.files(), matrix.plan.block_ptr, found.separation
    row_names, column_names = matrix.row_names(), matrix.column_names()

    def cells(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                sparse = separation.sparse(mapped(files[number]))
                rows, columns = np.nonzero(sparse)
                for first in range(0, len(rows), CELLS_AT_ONCE):
                    row, column = rows[first : first + CELLS_AT_ONCE], columns[first : first + CELLS_AT_ONCE]
                    yield pa.RecordBatch.from_arrays(
                        [
                            row_names.take(pa.array(row + block_ptr[number])),
                            column_names.take(pa.array(column)),
                            pa.array(sparse[row, column].astype(np.float32)),
                        ],
                        names=["row_id", "column_id", "value"],
                    )

    return matrix.spark.range(0, len(files), 1, len(files)).mapInArrow(cells, SPARSE_SCHEMA)
