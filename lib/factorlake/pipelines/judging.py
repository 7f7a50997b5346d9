"""What models are judged on: held-out pairs, what is known of their users, and the users of whom nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.intervals import Interval
from factorlake.models.blocks import number_of_blocks
from factorlake.pipelines.context import Context
from factorlake.pipelines.evaluate_tables import candidate_pairs, held_out_pairs
from factorlake.pipelines.holdout import PAIR, chosen_by_hash, split_events, without_pairs
from factorlake.pipelines.models import held_out_truth, selected_events, training_pairs
from factorlake.spark.compat import keep, release

MODEL, LIVE, POPULARITY, NEIGHBOURS = "model", "live", "popularity", "neighbours"
BIASES, MEAN, PYSPARK_ML = "biases", "mean", "pyspark_ml"
NAMES = (MODEL, LIVE, POPULARITY, NEIGHBOURS, BIASES, MEAN, PYSPARK_ML)
"""Who may be judged, beside the tables that are handed in."""
COLD = "cold"


class Measured(NamedTuple):
    """Whose figure it is, and of whom."""

    name: str
    metric: str
    slice: str | None = None


Figures = dict[Measured, Interval]


def difference(name: str) -> str:
    """Return the name of what the model is better by than another."""
    return f"difference:{name}"


@dataclass(frozen=True)
class Part:
    """Users who are judged, and by what."""

    known: DataFrame
    """(user_id, item_id, value) of these users; none of cold ones."""
    truth: DataFrame
    """(user_id, item_id, value), none of them known."""
    candidates: DataFrame | None
    """(user_id, item_id): what the truth is ranked among, neither known nor held out. None: all items."""

    def users(self) -> DataFrame:
        """Return the user_id of each user once."""
        return self.truth.select("user_id").distinct()

    def asked_pairs(self) -> DataFrame:
        """Return the (user_id, item_id) that scores are asked for: held out or candidates."""
        truth = self.truth.select(*PAIR)
        return truth if self.candidates is None else truth.unionByName(self.candidates)

    def release(self) -> None:
        """Give up what is cached."""
        for frame in (self.known, self.truth, self.candidates):
            if frame is not None:
                release(frame)


@dataclass(frozen=True)
class Task:
    """What everyone who is judged must find."""

    learnt: DataFrame
    """(user_id, item_id, value): all that may be learnt from."""
    warm: Part
    """Users of whom something is known."""
    cold: Part | None
    """Users of whom nothing is; None where there are none."""
    n_blocks: int
    counts: dict[str, int]

    def release(self) -> None:
        """Give up what is cached."""
        for part in (self.warm, self.cold):
            if part is not None:
                part.release()


class Contender(Protocol):
    """Someone who is judged: a model, a baseline, a table."""

    @property
    def name(self) -> str: ...

    @property
    def answers_cold(self) -> bool:
        """Whether it has an answer for users of whom nothing is known."""

    def scores(self, part: Part) -> DataFrame:
        """Return (user_id, item_id, score) of the part's asked pairs; a pair may be missing."""


class Ranker(Contender, Protocol):
    """Someone who can make lists as well."""

    def lists(self, part: Part, k: int) -> DataFrame:
        """Return (user_id, item_id, rank): at most k items a user, none of them known."""


def split_pairs(context: Context, row: Row) -> tuple[DataFrame, DataFrame]:
    """Return (known, held out) pairs (user_id, item_id, value) of the events a model was trained on, by the settings'
    split."""
    settings = context.settings.evaluate
    events = selected_events(context, row["interactions_version"])
    if settings.split == "given":
        held = held_out_pairs(context, explicit=row["objective"] == "explicit")
        return training_pairs(context, without_pairs(events, held)), held
    known, held = split_events(
        events, settings.split, row["cutoff"], settings.test_share, context.settings.seed, settings.last_n
    )
    return training_pairs(context, known), held_out_truth(context, held)


def task_of(context: Context, known: DataFrame, held: DataFrame, explicit: bool, n_observed: int) -> Task:
    """Keep held-out pairs that are new to their users; part known users from cold ones.

    At most about ``evaluate.max_users`` of either are judged, chosen by a hash of their ids.
    """
    limit = context.settings.evaluate.max_users
    new = without_pairs(held if explicit else held.where(F.col("value") > 0), known)
    candidates = None
    if context.settings.evaluate.candidates:
        if explicit:
            raise ConfigError(
                "evaluate.candidates ranks items, but an explicit model is judged by its predicted ratings"
            )
        candidates = keep(without_pairs(without_pairs(candidate_pairs(context), known), new))
        # Among no candidates every item is found.
        n_before = new.select("user_id").distinct().count()
        new = new.join(candidates.select("user_id").distinct(), on="user_id", how="left_semi")
    known_users = known.select("user_id").distinct().withColumn("is_known", F.lit(True))
    users = keep(new.select("user_id").distinct().join(known_users, on="user_id", how="left"))
    n_users, n_warm = users.agg(F.count(F.lit(1)), F.count("is_known")).collect()[0]
    if candidates is not None and n_before and not n_users:
        raise DataRefusedError(
            f"evaluate.candidates has no candidate for any of the {n_before} users with held-out pairs: are its ids "
            "written as in the log?"
        )

    def part(chosen: DataFrame) -> Part:
        truth, told = (keep(frame.join(chosen, on="user_id", how="left_semi")) for frame in (new, known))
        among = None if candidates is None else keep(candidates.join(chosen, on="user_id", how="left_semi"))
        return Part(told, truth, among)

    warm = part(chosen_by_hash(users.where(F.col("is_known")).select("user_id"), limit, n_warm))
    n_judged, n_pairs = warm.truth.agg(F.countDistinct("user_id"), F.count(F.lit(1))).collect()[0]
    n_cold, cold = n_users - n_warm, None
    if n_cold:
        cold = part(chosen_by_hash(users.where(F.col("is_known").isNull()).select("user_id"), limit, n_cold))
        if not cold.truth.take(1):
            cold = None
    counts = {"judged_users": n_judged, "cold_users": n_cold, "held_out_pairs": n_pairs}
    if candidates is not None:
        counts["users_without_candidates"] = n_before - n_users
        release(candidates)
    release(users)
    return Task(known, warm, cold, number_of_blocks(n_observed), counts)
