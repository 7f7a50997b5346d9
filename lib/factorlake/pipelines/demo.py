"""What a run on the embedded demo log adds: the log itself before, and how much of its taste was found after.

Reads the candidate's lists and interactions; writes the demo log's folder.
"""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.config.settings import Settings
from factorlake.errors import ConfigError
from factorlake.pipelines.context import Context
from factorlake.pipelines.demo_log import DemoLog, planted_share_of, write_demo_log
from factorlake.pipelines.models import seen_pairs
from factorlake.reporting.content import PlantedShare

DEFINITION = (
    "How far the lists go from the popularity list (0 %) to the best list possible (100 %), "
    "by the planted liking of the tracks on them."
)


def prepare_demo_log(settings: Settings) -> DemoLog:
    """Write the demo log into the folder that `input` lies in.

    Raises
    ------
    ConfigError : `demo` or `input` is not set, or the folder holds something else.
    """
    if settings.demo is None:
        raise ConfigError("no demo log is set: use the conf file demo.yaml")
    return write_demo_log(settings.demo, _folder(settings))


def planted_share(context: Context, row: Row, lists: DataFrame) -> PlantedShare | None:
    """Return the share of the planted taste that a candidate's lists found, None where the demo log is gone.

    Parameters
    ----------
    row : the candidate's row of models.
    lists : (user_id, rank, item_id) of all listeners.
    """
    planted = _folder(context.settings) / "planted.npz"
    if not planted.exists():
        return None
    seen = seen_pairs(context, row["interactions_version"]).distinct()
    by_listener = _tracks_by_listener(lists.select("user_id", "item_id", "rank"))
    known = _tracks_by_listener(seen.select("user_id", "item_id", F.lit(0).alias("rank")))
    return PlantedShare(planted_share_of(planted, row["objective"], by_listener, known), DEFINITION)


def _folder(settings: Settings) -> Path:
    return Path(settings.require_input()).parent


def _tracks_by_listener(ranked: DataFrame) -> dict[str, list[str]]:
    frame = ranked.toPandas().sort_values(["user_id", "rank", "item_id"])
    return {str(user): tracks.to_list() for user, tracks in frame.groupby("user_id")["item_id"]}
