"""The guard rails of publish: figures of the lists that would go live, beside those that are, and their limits."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.config.settings import PublishSettings
from factorlake.pipelines.context import Context
from factorlake.tables import delta_io

USERS = "users_share"
CATALOGUE = "catalogue_share"
OVERLAP = "mean_overlap"


@dataclass(frozen=True)
class Limit:
    """The least value of a figure, the setting that it comes from, and what the figure is."""

    setting: str
    least: float
    meaning: str


def limits(settings: PublishSettings) -> dict[str, Limit]:
    """Return the limit of each figure."""
    return {
        USERS: Limit("least_users", settings.least_users, "users with a list, as a share of those with one now"),
        CATALOGUE: Limit("least_catalogue", settings.least_catalogue, "share of the catalogue in the lists"),
        OVERLAP: Limit("least_overlap", settings.least_overlap, "mean overlap of lists with those users have now"),
    }


def live_lists(context: Context, live: Row | None) -> DataFrame | None:
    """Return the lists that are live as their publication recorded them, whatever a killed run left in the table; None
    where nothing is live."""
    if live is None:
        return None
    path = context.lake.published("recommendations", context.settings.publish.slot)
    return delta_io.read(context.spark, path, dict(live["versions"])["recommendations"])


def figures_of(lists: DataFrame, live: DataFrame | None, catalogue: DataFrame) -> dict[str, float]:
    """Return the figures of new lists (user_id, item_id) by name, in one pass.

    live : the lists they would replace. Without any, or with empty ones, only the catalogue's share is told.
    catalogue : the model's items (item_id). Their share is of as many items as the lists have places, where those are
        fewer: a few users cannot be shown a large catalogue. 0 of lists without rows.

    A user's overlap is the share of the shorter list that is in the other one too; the mean is over the users of both,
    0 where there are none.
    """
    known = lists.sparkSession.createDataFrame([], "user_id string, item_id string") if live is None else live
    marks = ("new", "old", "item")
    new, old, item = (F.col(name) for name in marks)

    def marked(frame: DataFrame, *mark: int) -> DataFrame:
        columns = [F.lit(value).alias(name) for name, value in zip(marks, mark, strict=True)]
        user = "user_id" if "user_id" in frame.columns else F.lit(None).cast("string").alias("user_id")
        return frame.select(user, "item_id", *columns)

    rows = marked(lists, 1, 0, 0).unionByName(marked(known, 0, 1, 0)).unionByName(marked(catalogue, 0, 0, 1))
    # A pair is in both lists or in one; then pairs are counted by user and by item at once.
    pairs = rows.groupBy("user_id", "item_id").agg(*(F.max(name).alias(name) for name in marks))
    counted = pairs.groupingSets([["user_id"], ["item_id"]], "user_id", "item_id").agg(
        F.grouping("user_id").alias("by_item"),
        *(F.sum(name).alias(name) for name in marks),
        F.sum(new * old).alias("both"),
    )
    of_user, of_item = F.col("by_item") == 0, F.col("by_item") == 1
    in_both = of_user & (new > 0) & (old > 0)
    found = counted.agg(
        F.count_if(of_user & (new > 0)).alias("users"),
        F.count_if(of_user & (old > 0)).alias("users_now"),
        F.avg(F.when(in_both, F.col("both") / F.least(new, old))).alias("overlap"),
        F.count_if(of_item & (new > 0)).alias("listed"),
        F.count_if(of_item & (item > 0)).alias("items"),
        F.coalesce(F.sum(F.when(of_user, new)), F.lit(0)).alias("places"),
    ).collect()[0]
    listable = min(found["items"], found["places"])
    figures = {CATALOGUE: found["listed"] / listable if listable else 0.0}
    if found["users_now"]:
        figures |= {USERS: found["users"] / found["users_now"], OVERLAP: float(found["overlap"] or 0.0)}
    return figures


def faults(figures: dict[str, float], settings: PublishSettings) -> list[str]:
    """Return a sentence for each figure under its limit, with both and the setting."""
    return [
        f"{name} is {figures[name]:.4g} ({limit.meaning}), under the limit of {limit.least:g} (publish.{limit.setting})"
        for name, limit in limits(settings).items()
        if name in figures and figures[name] < limit.least
    ]
