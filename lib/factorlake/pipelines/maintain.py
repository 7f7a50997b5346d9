"""Keep a lake small: compacts and vacuums every table, drops commits that are over, removes the candidates of models
that nobody can go back to, and what killed runs left.

Nothing that a reader may hold is touched: files that a version needs stay for `maintain.keep_days` after the commit
that did without them, and longer where a model that is kept, or a publication that a slot can go back to, is older.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from factorlake.errors import ConfigError
from factorlake.pipelines.context import Context, JobResult
from factorlake.spark.compat import remove_folder
from factorlake.tables import delta_io, registry
from factorlake.tables.delta_log import drop_commits
from factorlake.tables.names import LEFT_BY_RUNS, Lake
from factorlake.tables.registry import EXPIRED
from factorlake.tables.schemas import SCHEMAS

SAFE_HOURS = 7 * 24
"""Delta's own floor: a reader or a writer that takes longer than the files it needs are kept fails, or worse."""
HOUR = timedelta(hours=1)


def run(context: Context, force: bool = False) -> JobResult:
    """Compact, vacuum and clear up after the settings `maintain`; the same again changes nothing.

    Raises
    ------
    ConfigError : files are to be kept for less than a week, and a person has not said ``force``.
    """
    spark, lake, settings = context.spark, context.lake, context.settings.maintain
    if settings.keep_days * 24 < SAFE_HOURS and not force:
        raise ConfigError(
            f"maintain.keep_days {settings.keep_days:g} is less than a week: a reader or a job that is under way could "
            "lose its files. Set 7 or more, or give --force where nothing else reads or writes this lake"
        )
    now = registry.now()
    kept, since = _kept(context, lake)
    removed = _remove_candidates(context, kept)
    # Models of other recommenders pin versions of the shared tables too.
    since = min([since, *(_kept(context, Lake.at(lake.root, other))[1] for other in lake.other_recommenders())])
    hours = settings.keep_days * 24
    if hours >= SAFE_HOURS:
        # An hour for clocks that differ; but what was forgotten is not kept for anybody.
        erased = registry.last_erasure(spark, lake)
        start = since - HOUR if erased is None else max(since - HOUR, erased)
        hours = max(hours, (now - start) / HOUR)
    tables = _tables(context, kept)
    compacted = 0
    for path, grows in tables.items():
        context.lease()
        if grows:
            compacted += int(delta_io.compact(spark, path))
        delta_io.vacuum(spark, path, hours)
        drop_commits(path, now - hours * HOUR)
        context.progress(f"{path.removeprefix(f'{lake.root}/')}: files older than {hours / 24:.1f} days are gone")
    return JobResult(
        reason=f"{len(tables)} tables, {len(removed)} candidates removed",
        counts={"tables": len(tables), "compacted": compacted, "models_removed": len(removed)},
        details={"kept_hours": round(hours, 1), "removed": sorted(removed), "kept": sorted(kept)},
    )


def _kept(context: Context, lake: Lake) -> tuple[set[str], datetime]:
    """Return the models of a recommender that stay, and the time from which on its versions of tables must be readable.

    What stays are the last models that were trained, and those that are live or that a slot can go back to.
    """
    spark, settings = context.spark, context.settings
    published = [
        row
        for slot in registry.slots(spark, lake)
        for row in registry.kept_publications(spark, lake, slot, settings.publish.keep_sets)
    ]
    trained = registry.trained_models(spark, lake)
    kept = {row["model_version"] for row in [*published, *trained[: settings.maintain.keep_models]]}
    times = [row["published_at"] for row in published]
    times += [row["recorded_at"] for row in trained if row["model_version"] in kept]
    return kept, min(times, default=registry.now())


def _remove_candidates(context: Context, kept: set[str]) -> list[str]:
    """Remove the folders of models that are not kept, and of the others what runs have left; return the former.

    That a model is gone stands in the register before its files go: a run that is killed in between is finished by
    the next.
    """
    spark, lake = context.spark, context.lake
    known = {row["model_version"] for row in registry.trained_models(spark, lake)}
    # A training that was killed has a folder, and no row. A store's folders are not listed.
    removed = sorted((known | set(lake.candidate_versions())) - kept)
    for version in removed:
        row = registry.model(spark, lake, version)
        if row is not None and row["state"] != EXPIRED:
            context.record_model({**row.asDict(), "state": EXPIRED})
        context.lease()
        remove_folder(spark, lake.candidate_folder(version))
    for version in kept:
        for name in LEFT_BY_RUNS:
            remove_folder(spark, f"{lake.candidate_folder(version)}/{name}")
    for search in lake.searches():
        remove_folder(spark, lake.search_folder(search))
    return removed


def _tables(context: Context, kept: set[str]) -> dict[str, bool]:
    """Return the path of every table that exists, and whether it grows by a little with each run."""
    spark, lake = context.spark, context.lake
    slots = registry.slots(spark, lake)
    named = lake.shared_tables() + lake.own_tables() + lake.model_tables(slots, sorted(kept), lake.decompositions())
    return {path: SCHEMAS[name].grows for name, path in named if delta_io.exists(spark, path)}
