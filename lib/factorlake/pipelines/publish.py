"""Make a candidate live: reads its factors and lists, writes the published tables and one publications row."""

from __future__ import annotations

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO, ConfigError, ModelRefusedError
from factorlake.pipelines import guard
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.evaluate import COMPARED, GAIN, judged_users
from factorlake.pipelines.models import chosen_model
from factorlake.pipelines.publishing import KEYS, LISTS, publish_table, record_publication, record_published, stands
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS


def run(context: Context, model: str | None = None, force: bool = False, by_name: bool = True) -> JobResult:
    """Publish a scored candidate into the settings' slot.

    A model that was live there and has been replaced comes back only if a person names it (``model``, and ``by_name``
    is not False), and so do lists of the live model that a rollback took back: else the next run would undo it.

    Each table changes in one commit; the publications row with all their versions is written last, so a reader of
    several tables sees the old set or the new one. Killed in between and run again, the same rows are found
    published already and only what is missing is written.

    Raises ConfigError when the model has no lists or was not judged beside the live one, ModelRefusedError when
    its gate does not let it pass. A model that was refused is judged anew, since limits and the live model may
    change.
    """
    spark, lake, slot = context.spark, context.lake, context.settings.publish.slot
    row = chosen_model(context, model)
    version = row["model_version"]
    earlier = registry.publications(spark, lake, slot)
    live = earlier[0] if earlier else None
    lists = delta_io.version(spark, lake.candidate(version, LISTS))
    is_live = live is not None and live["model_version"] == version
    # A publication of before the lists were noted is taken for one of these.
    same_lists = live is not None and is_live and dict(live["versions"]).get(LISTS, lists) == lists
    if live is not None and same_lists and stands(context, live):
        record_published(context, row)
        return JobResult(
            NOTHING_TO_DO,
            f"model {version} is published already",
            versions=dict(live["versions"]),
            model_version=version,
        )
    named = force or (model is not None and by_name)
    if live is not None and not same_lists and not named and _was_live(earlier, live, version, lists):
        place = "with these lists and taken back" if is_live else f"before {live['model_version']} took its place"
        return JobResult(
            NOTHING_TO_DO,
            f"model {version} was live {place}; `factorlake publish --model {version}` brings it back",
            model_version=version,
        )
    if row["state"] not in ("scored", "published", "refused"):
        raise ConfigError(f"model {version} has no lists yet; run `factorlake recommend` first")
    verdict = "live already; its tables are brought up to it" if is_live else _gate(context, row, live, force)
    tables = _tables(context, row)
    # The same lists again only mend what a killed run left.
    figures = {} if same_lists else _guarded(context, row, tables["item_factors"], live, force)
    context.progress(f"publishing {version} into {slot}: {verdict}")
    versions = {LISTS: lists}
    counts: dict[str, int] = {}
    for table, frame in tables.items():
        result = publish_table(
            context,
            frame.withColumn("model_version", F.lit(version)).withColumn("as_of", F.lit(row["as_of"])),
            lake.published(table, slot),
            SCHEMAS[table],
            KEYS[table],
        )
        versions[table] = result.version
        counts |= result.counts(table)
    record_publication(
        context,
        {
            "model_version": version,
            "versions": versions,
            "as_of": row["as_of"],
            "kind": "forced" if force else "publish",
            "figures": figures,
        },
    )
    context.record_model({**row.asDict(), "state": "published"})
    return JobResult(
        reason=verdict, counts=counts, versions=versions, model_version=version, details={"figures": figures}
    )


def _guarded(context: Context, row: Row, items: DataFrame, live: Row | None, force: bool) -> dict[str, float]:
    """Return what the guard rails measure; raise where a figure is under its limit, unless by ``force``."""
    version = row["model_version"]
    lists = delta_io.read(context.spark, context.lake.candidate(version, LISTS))
    figures = guard.figures_of(lists, guard.live_lists(context, live), items)
    faults = guard.faults(figures, context.settings.publish)
    if not faults or force:
        return figures
    # New lists of the live model are refused, and not the model.
    if row["state"] != "refused" and (live is None or live["model_version"] != version):
        context.record_model({**row.asDict(), "state": "refused"})
    raise ModelRefusedError(
        f"the lists of model {version} are refused: {'; '.join(faults)}; what is live stays. "
        f"`factorlake publish --model {version} --force` publishes them all the same"
    )


def _was_live(earlier: list[Row], live: Row, version: str, lists: int) -> bool:
    """Whether a model has been live and was replaced; of the live model, whether these lists have."""
    of_model = [row for row in earlier if row["model_version"] == version]
    if version != live["model_version"]:
        return bool(of_model)
    return any(dict(row["versions"]).get(LISTS) == lists for row in of_model)


def _tables(context: Context, row: Row) -> dict[str, DataFrame]:
    spark, lake, version = context.spark, context.lake, row["model_version"]
    factors = delta_io.read(spark, lake.candidate(version, "factors"))
    lists = delta_io.with_columns_of(delta_io.read(spark, lake.candidate(version, "lists")), SCHEMAS["lists"])
    attributes = delta_io.read_or_empty(spark, lake.shared("item_attributes"), SCHEMAS["item_attributes"])
    names = attributes.select(F.col("id").alias("item_id"), F.col("name").alias("item_name"))
    sides = {
        f"{side}_factors": factors.where(F.col("side") == side).withColumnRenamed("id", f"{side}_id")
        for side in ("item", "user")
    }
    return {**sides, "recommendations": lists.join(names, on="item_id", how="left")}


def _gate(context: Context, row: Row, live: Row | None, force: bool) -> str:
    """Return why the candidate may pass; record and raise the refusal of one that is worse than the live model."""
    version = row["model_version"]
    if live is None:
        return "first model of this slot"
    if force:
        return "published by force, past the gate"
    if not context.settings.publish.gate:
        return "the gate is off (publish.gate)"
    metrics = dict(row["metrics"] or {})
    lower = metrics.get(f"{GAIN}:{live['model_version']}:lower")
    if lower is None:
        held_out = row["cutoff"] is not None and context.settings.evaluate.split == "time"
        if held_out and metrics.get(judged_users("time"), COMPARED) >= COMPARED:
            raise ConfigError(
                f"model {version} was not judged beside the live {live['model_version']}: "
                f"run `factorlake evaluate --model {version}` first, or publish it unseen by --force"
            )
        return "not compared with the live model: no or too few users have held-out events that could judge it"
    margin = context.settings.evaluate.margin
    if lower >= -margin:
        return f"not worse than {live['model_version']}: lower bound of the gain {lower:+.4f}, margin {margin}"
    if row["state"] != "refused":
        context.record_model({**row.asDict(), "state": "refused"})
    raise ModelRefusedError(
        f"model {version} is worse than the live {live['model_version']}: the lower confidence bound of its gain is "
        f"{lower:+.4f}, under the margin of -{margin} (evaluate.margin); what is live stays. "
        "`factorlake publish --force` publishes it all the same"
    )
