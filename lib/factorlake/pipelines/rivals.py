"""Whom a model is judged beside: popularity, item neighbours, and tables of recommendations that people hand in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from factorlake.config.settings import NAME
from factorlake.errors import ConfigError, DataRefusedError
from factorlake.models.neighbours import NeighbourRules
from factorlake.pipelines.context import Context
from factorlake.pipelines.evaluate_tables import contents, recommended_items
from factorlake.pipelines.holdout import PAIR, without_pairs
from factorlake.pipelines.judged import Judged
from factorlake.pipelines.judging import NAMES, NEIGHBOURS, POPULARITY, Part, Task
from factorlake.spark.compat import keep, remove_folder
from factorlake.spark.exchange import Exchange
from factorlake.spark.neighbour_scores import score_pairs_by_neighbours
from factorlake.spark.neighbours import cosine_neighbours_frame, recommend_by_neighbours_frame
from factorlake.spark.scorer import score_top_k

MOST_NEIGHBOURS = 100_000_000
MOST_MEETINGS = 20_000_000_000
"""Most products that the baseline by item neighbours may take: Σ_u n_u², as often as two items meet in a user."""


@dataclass(frozen=True)
class Popularity:
    """Lists what most users have, the same for all but for what each knows already."""

    model: Judged
    """Whose items are counted."""
    learnt: DataFrame
    name: str = POPULARITY
    answers_cold: bool = True

    def lists(self, part: Part, k: int) -> DataFrame:
        """Return the k most popular items that each user does not know; ties by id."""
        # A user without a direction is answered by popularity.
        zeros = F.array_repeat(F.lit(0.0).cast("float"), self.model.parameters.rank)
        nobody = part.users().select("user_id", zeros.alias("factor"), F.lit(0.0).cast("float").alias("bias"))
        return score_top_k(nobody, part.known, self.model.items.shipped, k, self.model.n_blocks)

    def scores(self, part: Part) -> DataFrame:
        """Return how many users have each item asked for."""
        counts = self.learnt.groupBy("item_id").agg(F.count(F.lit(1)).cast("double").alias("score"))
        return part.asked_pairs().join(counts, on="item_id").select(*PAIR, "score")


@dataclass(frozen=True)
class ItemNeighbours:
    """Lists items by the sum of cosines to what the user knows, each weighed by the user's rating of it."""

    learnt: DataFrame
    rules: NeighbourRules
    workspace: str
    exchange: Exchange
    n_blocks: int
    name: str = NEIGHBOURS
    answers_cold: bool = False

    def lists(self, part: Part, k: int) -> DataFrame:
        """Return the k best items of each user, fewer where neighbours reach fewer."""
        found = recommend_by_neighbours_frame(
            self.learnt.sparkSession, self.learnt, "item", self.rules, k, self.workspace, mean=False
        )
        return found.join(part.users(), on="user_id", how="left_semi")

    def scores(self, part: Part) -> DataFrame:
        """Return the scores of the items asked for that a neighbour reaches."""
        near = cosine_neighbours_frame(self.learnt.sparkSession, self.learnt, "item", self.rules, self.workspace)
        return score_pairs_by_neighbours(near, part.known, part.asked_pairs(), self.exchange, self.n_blocks)

    def release(self) -> None:
        """Remove the files."""
        remove_folder(self.learnt.sparkSession, self.workspace)


def item_neighbours(context: Context, task: Task, version: str, exchange: Exchange) -> ItemNeighbours | None:
    """Return the baseline by item neighbours; None, with a line that says so, where it would take too long.

    The rule: Σ_u n_u² over the known pairs n_u of each user is at most MOST_MEETINGS, and where candidates are ranked,
    for which all neighbours pass the driver, there are at most MOST_NEIGHBOURS. It needs files that all workers see.
    """
    n = context.settings.evaluate.neighbours
    if not n:
        return None
    by_user = task.learnt.groupBy("user_id").agg(F.count(F.lit(1)).cast("double").alias("n"))
    meetings = by_user.agg(F.sum(F.col("n") * F.col("n"))).collect()[0][0] or 0
    why = None
    if meetings > MOST_MEETINGS:
        why = f"items meet {meetings:.3g} times in users (Σ n² over known pairs), more than {MOST_MEETINGS:.3g}"
    elif not exchange.by_file:
        why = "blocks of items meet in files, which workers do not see here"
    elif task.warm.candidates is not None:
        entries = n * task.learnt.select("item_id").distinct().count()
        if entries > MOST_NEIGHBOURS:
            why = f"items have {entries:.3g} neighbours, more than {MOST_NEIGHBOURS:.3g}; lower evaluate.neighbours"
    if why is not None:
        context.progress(f"{NEIGHBOURS}: left out, since {why}")
        return None
    workspace = f"{context.lake.candidate_folder(version)}/neighbours"
    return ItemNeighbours(task.learnt, NeighbourRules(n=n), workspace, exchange, task.n_blocks)


@dataclass(frozen=True)
class HandedIn:
    """Recommendations that someone else made: a table of user, item, and rank or score."""

    table: DataFrame
    """(user_id, item_id, place, score), kept."""
    name: str
    digest: str
    """Of its contents."""
    answers_cold: bool = True

    def lists(self, part: Part, k: int) -> DataFrame:
        """Return each judged user's first k items that are not known, ranks closed up; ties by item id."""
        new = without_pairs(self.table.join(part.users(), on="user_id", how="left_semi"), part.known)
        in_order = Window.partitionBy("user_id").orderBy("place", "item_id")
        ranked = new.withColumn("rank", F.row_number().over(in_order)).where(F.col("rank") <= k)
        return ranked.select(*PAIR, "rank")

    def scores(self, part: Part) -> DataFrame:
        """Return the scores of the pairs asked for that the table has; of candidates their order in its lists."""
        score = F.col("score") if part.candidates is None else -F.col("place")
        return part.asked_pairs().join(self.table, on=PAIR).select(*PAIR, score.alias("score"))


def handed_in(
    context: Context, paths: Sequence[str], names: Sequence[str], task: Task, explicit: bool
) -> list[HandedIn]:
    """Open the tables of recommendations that are to be judged.

    Raises
    ------
    ConfigError : names that are too many, taken or no names, and as `recommended_items`.
    DataRefusedError : as `recommended_items`, or a table has nothing for any judged user.
    """
    rivals = []
    for path, name in zip(paths, table_names(paths, names), strict=True):
        table = keep(recommended_items(context, path, scores_wanted=explicit))
        judged = task.warm.users()
        n_met = table.select("user_id").distinct().join(judged, on="user_id", how="left_semi").count()
        n_judged = task.counts["judged_users"]
        if not n_met:
            raise DataRefusedError(
                f"--recommendations {path} has no row for any of the {n_judged} users who are judged: are its ids "
                "written as in the log?"
            )
        if n_met < n_judged:
            context.progress(
                f"{name}: {n_judged - n_met} of {n_judged} judged users have no row there and count as misses"
            )
        rivals.append(HandedIn(table, name, contents(table)))
    return rivals


def table_names(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a name for each table: the one given in its place, else one made of its path."""
    if len(names) > len(paths):
        raise ConfigError(f"{len(names)} names are given for {len(paths)} tables: --name goes with --recommendations")
    chosen: list[str] = []
    for place, path in enumerate(paths):
        if place < len(names):
            name = names[place]
            if not NAME.match(name):
                raise ConfigError(f"--name {name!r} must be letters, digits and _, starting with a letter")
        else:
            stem = re.sub(r"[^A-Za-z0-9_]+", "_", PurePath(path).stem).strip("_")[:50]
            name = stem if NAME.match(stem) else f"table_{place + 1}"
        if name in (*NAMES, *chosen):
            raise ConfigError(f"the name {name!r} is taken; give the table {path} another by --name")
        chosen.append(name)
    return chosen
