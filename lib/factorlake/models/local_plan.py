"""The plan of one machine: ratings and rows in memory, one thread per block at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, RatingBlock, Side

from .half_step import (
    BlockSums,
    HalfStepTask,
    Segment,
    known_sums,
    prepare_fixed,
    segments_of,
    solve_one_block,
    sum_segment,
)
from .parameters import AlsParameters
from .plan import ArrayRows, DriverRows, T, joined
from .problem import AlsProblem, RowBlock, layout_of, rating_sum


class LocalPlan(DriverRows):
    """Solve blocks that lie in memory with threads. Use as a context manager, so that the threads end with it."""

    def __init__(
        self,
        user_blocks: Sequence[RatingBlock],
        item_blocks: Sequence[RatingBlock],
        parameters: AlsParameters,
        threads: int = 1,
    ) -> None:
        users, items = layout_of(user_blocks, parameters), layout_of(item_blocks, parameters)
        total = 0.0
        for block in user_blocks:
            total += rating_sum(block)
        n_obs = sum(block.n_obs for block in user_blocks)
        super().__init__(AlsProblem(users.n_rows, items.n_rows, n_obs, total), users, items)
        self._blocks: dict[Side, Sequence[RatingBlock]] = {"user": user_blocks, "item": item_blocks}
        self._segments = {side: [segments_of(block.row_ptr) for block in own] for side, own in self._blocks.items()}
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="half-step")

    def each(self, work: Callable[[RowBlock], T], blocks: Sequence[RowBlock]) -> list[T]:
        """Call ``work`` for each block, as many at a time as there are threads; tell in block order."""
        return list(self._pool.map(work, blocks))

    def half_step(
        self, task: HalfStepTask, fixed: ArrayRows, own: ArrayRows | None
    ) -> tuple[ArrayRows, list[BlockSums]]:
        """See ``Plan``."""
        blocks = self._blocks[task.side]
        prepared = prepare_fixed(task.parameters, task.mean, fixed.array)

        def add_up(position: int, segment: Segment) -> NDArray[np.float64]:
            block = blocks[position]
            return sum_segment(task, block, segment, block.neighbours[segment.first : segment.last], prepared)

        def solve(position: int) -> tuple[FloatMatrix, BlockSums]:
            block = blocks[position]
            warm = None if own is None else own.array[block.first_row : block.first_row + block.n_rows]
            return solve_one_block(task, block, prepared, warm, known.get(position))

        summed = {
            position: [self._pool.submit(add_up, position, segment) for segment in segments]
            for position, segments in enumerate(self._segments[task.side])
            if segments and task.solver != "residual"
        }
        known = {
            position: known_sums(self._segments[task.side][position], [sums.result() for sums in running])
            for position, running in summed.items()
        }

        # The largest blocks first, so that no thread starts one when the others are done.
        order = sorted(range(len(blocks)), key=lambda position: -blocks[position].n_obs)
        running = {position: self._pool.submit(solve, position) for position in order}
        solved = [running[position].result() for position in range(len(blocks))]
        return self.hold(task.side, joined([rows for rows, _ in solved])), [sums for _, sums in solved]

    def __enter__(self) -> LocalPlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
