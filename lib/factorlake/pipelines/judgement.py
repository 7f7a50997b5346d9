"""One judgement: the model, the baselines that belong beside it, and whom else someone asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pyspark.sql import Row

from factorlake.errors import ConfigError
from factorlake.pipelines.context import Context
from factorlake.pipelines.judged import candidate, published, refit
from factorlake.pipelines.judged_calibration import Calibrated
from factorlake.pipelines.judged_rankings import judge_rankings
from factorlake.pipelines.judged_ratings import BiasModel, MeanRating, judge_ratings
from factorlake.pipelines.judging import PYSPARK_ML, Contender, Figures, Ranker, Task
from factorlake.pipelines.rivals import Popularity, handed_in, item_neighbours
from factorlake.spark.biases import fit_biases
from factorlake.spark.compat import release
from factorlake.spark.exchange import Exchange


@dataclass(frozen=True)
class Others:
    """Who is judged beside the model and the baselines because someone asked for it."""

    recommendations: Sequence[str] = ()
    """Paths of tables."""
    names: Sequence[str] = ()
    """Of the tables, in their order; fewer may be given."""
    compare: Sequence[str] = ()
    """Packages whose model is trained and judged."""

    def __bool__(self) -> bool:
        return bool(self.recommendations or self.compare)


@dataclass(frozen=True)
class Judgement:
    """What came of judging."""

    figures: Figures
    calibration: Calibrated | None
    others: str
    """Who was judged because someone asked for it; of tables a hash of their contents."""


def judge(context: Context, row: Row, task: Task, live: Row | None, others: Others, exchange: Exchange) -> Judgement:
    """Judge the model of a models row: as it is where events after its cut-off do, else one trained anew.

    live : the publication of the model that is live, to be judged beside it; or None.

    Raises
    ------
    ConfigError, DataRefusedError : a table that was handed in cannot be judged, or a package is not known.
    """
    explicit, version = row["objective"] == "explicit", row["model_version"]
    unknown = [name for name in others.compare if name != PYSPARK_ML]
    if unknown:
        raise ConfigError(f"--compare knows {PYSPARK_ML}, not {unknown[0]}")
    with ExitStack() as until_done:
        # Tables come first: what is wrong with them is told before anything is trained.
        tables = handed_in(context, others.recommendations, others.names, task, explicit)
        for table in tables:
            until_done.callback(release, table.table)
        as_it_is = context.settings.evaluate.split == "time"
        own = candidate(context, row, exchange) if as_it_is else refit(context, row, task.learnt, exchange)
        rankers: list[Ranker] = [own, *tables]
        if live is not None:
            rankers.append(published(context, live, exchange))
        if others.compare:
            # Of the few who ask for it; it takes long to import.
            from factorlake.pipelines.rivals_pyspark import pyspark_ml

            peer = pyspark_ml(context, task)
            until_done.callback(peer.release)
            rankers.append(peer)
        told = ",".join([*others.compare, *(f"{table.name}={table.digest}" for table in tables)])
        if explicit:
            biases = fit_biases(task.learnt, exchange, task.n_blocks)
            until_done.callback(biases.release)
            raters: list[Contender] = [*rankers, BiasModel(biases), MeanRating(biases.mean)]
            return Judgement(judge_ratings(context, raters, task, biases), None, told)
        rankers.append(Popularity(own, task.learnt))
        neighbours = item_neighbours(context, task, version, exchange)
        if neighbours is not None:
            until_done.callback(neighbours.release)
            rankers.append(neighbours)
        found = judge_rankings(context, rankers, task)
    return Judgement(found.figures, found.calibration, told)
