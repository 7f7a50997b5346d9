"""Pairs packed once for many trainings: encoded, cut into blocks, and held open behind a plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.models.blocks import block_of, number_of_blocks, pack_positions
from factorlake.models.estimate import Load, choose_plan
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import Plan
from factorlake.spark.blocks import pack_blocks, write_blocks
from factorlake.spark.broadcast import FileBroadcastPlan, TaskBroadcastPlan
from factorlake.spark.compat import keep, named_jobs, release, remove_folder, task_slots
from factorlake.spark.encode import (
    Ids,
    Part,
    PartFile,
    check_rows,
    count_ids,
    encode_to_files,
    encode_to_rows,
    join_parts,
    parts_of,
)
from factorlake.spark.exchange import Exchange
from factorlake.spark.file_packing import pack_files
from factorlake.spark.ids import Positions, positions
from factorlake.spark.shuffle import ShufflePlan
from factorlake.types import PlanName


@dataclass(frozen=True)
class OpenedPairs:
    """Pairs behind a plan, with the frames that give its rows their ids."""

    plan: Plan[Any]
    users: Positions
    items: Positions
    n_observed: int
    name: PlanName
    """Of the plan."""
    threads: int
    """Of this machine that the driver may use."""


@contextmanager
def opened_pairs(
    spark: SparkSession,
    pairs: DataFrame,
    parameters: AlsParameters,
    *,
    workspace: str,
    plan: PlanName = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[OpenedPairs]:
    """Pack pairs and hold them open for any number of trainings one after the other; see ``fit_pairs``.

    Parameters
    ----------
    parameters : of these only the objective, whether there is an α, and the rank count: the first two say what is
        counted of a row, the rank chooses the plan. Trainings may differ in all the rest.
    workspace : folder of this call alone, which driver and, where they can, workers see. It is removed at the end.

    Raises
    ------
    DataRefusedError : nothing to train on, a rating that is not a number, or a pair that occurs twice.
    """
    drop_zero = parameters.objective != "explicit"

    def choose(by_file: bool, n_users: int, n_items: int, n_observed: int) -> PlanName:
        load = Load(n_users, n_items, n_observed, parameters.rank, epochs=1, k=1)
        is_local = (spark.conf.get("spark.master", None) or "local").startswith("local")
        chosen, why = choose_plan(plan, is_local, by_file, load)
        progress(f"plan {chosen}: {why}")
        return chosen

    with ExitStack() as held:
        held.callback(remove_folder, spark, workspace)
        exchange = held.enter_context(Exchange(spark, f"{workspace}/exchange"))
        n_threads = threads or min(task_slots(spark), os.cpu_count() or 1)
        if exchange.by_file:
            folder = f"{workspace}/rating_blocks"
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(f"{folder}/parts", exist_ok=True)
            with named_jobs(spark, "encode pairs"):
                parts = encode_to_files(pairs, drop_zero, f"{folder}/parts")
            n_observed = sum(part.n_obs for part in parts)
            chosen = choose(True, count_ids(parts, "user"), count_ids(parts, "item"), n_observed)
            if chosen == "local":
                opened = _in_memory(held, spark, [part.load() for part in parts], parameters, n_threads)
            else:
                opened = _in_files(held, spark, parts, folder, parameters, chosen, exchange, n_threads)
        else:
            with named_jobs(spark, "encode pairs"):
                encoded = keep(encode_to_rows(pairs, drop_zero))
                held.callback(release, encoded)
                n_observed, most_users, most_items = check_rows(encoded)
            chosen = choose(False, most_users, most_items, n_observed)
            if chosen == "local":
                opened = _in_memory(held, spark, parts_of(encoded), parameters, n_threads)
            else:
                path = f"{workspace}/rating_blocks"
                opened = _in_table(held, spark, encoded, n_observed, path, parameters, exchange, n_threads)
        yield opened


def _in_memory(
    held: ExitStack, spark: SparkSession, parts: Sequence[Part], parameters: AlsParameters, threads: int
) -> OpenedPairs:
    joined = join_parts(parts, threads)
    n_observed = len(joined.user)
    blocks = pack_positions(joined.user, joined.item, joined.values, joined.users.hashes, joined.items.hashes, threads)
    local = held.enter_context(LocalPlan(*blocks, parameters, threads))
    users, items = (_numbered(spark, ids, number_of_blocks(n_observed)) for ids in (joined.users, joined.items))
    return OpenedPairs(local, users, items, n_observed, "local", threads)


def _in_files(
    held: ExitStack,
    spark: SparkSession,
    parts: Sequence[PartFile],
    folder: str,
    parameters: AlsParameters,
    chosen: PlanName,
    exchange: Exchange,
    threads: int,
) -> OpenedPairs:
    n_observed = sum(part.n_obs for part in parts)
    localized = chosen == "shuffle"
    with named_jobs(spark, "pack rating blocks"):
        packed = pack_files(spark, parts, folder, number_of_blocks(n_observed), parameters, localized=localized)
        for side in (packed.users, packed.items):
            held.callback(release, keep(side.frame))
    plan: Plan[Any]
    if localized:
        plan = ShufflePlan(spark, folder, packed.problem, packed.blocks)
    else:
        plan = FileBroadcastPlan(spark, exchange, packed.problem, packed.blocks)
    return OpenedPairs(plan, packed.users, packed.items, n_observed, chosen, threads)


def _in_table(
    held: ExitStack,
    spark: SparkSession,
    encoded: DataFrame,
    n_observed: int,
    path: str,
    parameters: AlsParameters,
    exchange: Exchange,
    threads: int,
) -> OpenedPairs:
    n_blocks = number_of_blocks(n_observed)
    users, items = (positions(encoded.select(F.explode(ids).alias("id")), n_blocks) for ids in ("user_ids", "item_ids"))
    with named_jobs(spark, "pack rating blocks"):
        for side in (users, items):
            held.callback(release, keep(side.frame))
        write_blocks(pack_blocks(encoded, users, items), path)
        plan = TaskBroadcastPlan(spark, exchange, path, parameters)
    return OpenedPairs(plan, users, items, n_observed, "broadcast", threads)


def _numbered(spark: SparkSession, ids: Ids, n_blocks: int) -> Positions:
    block = block_of(ids.hashes, n_blocks)

    def frame() -> DataFrame:
        columns = {
            "id": ids.ids,
            "hash": pa.array(ids.hashes),
            "block": pa.array(block.astype(np.int32)),
            "position": pa.array(np.arange(len(block), dtype=np.int32)),
        }
        return spark.createDataFrame(pa.table(columns))

    return Positions(frame, np.searchsorted(block, np.arange(n_blocks + 1)))
