"""Bring back what an earlier publication made live: reads publications and the versions that one of them names, writes
the published tables and one publications row."""

from __future__ import annotations

from pyspark.sql import Row

from factorlake.errors import NOTHING_TO_DO, ConfigError
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.publishing import KEYS, LISTS, publish_table, record_publication, record_published
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS


def run(context: Context, to: str | None = None) -> JobResult:
    """Make the settings' slot what it was at an earlier publication, row for row, as a publication of its own.

    to : the publication (the id of its run) or a model, whose newest publication is meant. None: the newest one of
        another model or other lists than what is live. Where a rollback is live, that one: asked again, it is done.

    Each table changes in one commit, by content: a rollback that was killed and is run again writes only what is
    missing, one that is done writes nothing (99). The publications row comes last. What was taken back comes live
    again only if a person names it (`publish`).

    Raises ConfigError where there is no such publication or none to go back to, DataRefusedError where a version that
    it names is gone; then no table has been touched.
    """
    spark, lake, slot = context.spark, context.lake, context.settings.publish.slot
    publications = registry.publications(spark, lake, slot)
    target = _target(publications, slot, to)
    live, version, recorded = publications[0], target["model_version"], dict(target["versions"])
    # All are looked at before the first is written.
    frames = {}
    for table, key in KEYS.items():
        frame = delta_io.read_whole(spark, lake.published(table, slot), recorded[table], key, _way_out(version))
        frames[table] = delta_io.with_columns_of(frame, SCHEMAS[table])
    said = f"publication {registry.published_set(target)} of model {version}"
    context.progress(f"rolling {slot} back to {said}")
    versions = {name: number for name, number in recorded.items() if name == LISTS}
    counts: dict[str, int] = {}
    for table, frame in frames.items():
        result = publish_table(context, frame, lake.published(table, slot), SCHEMAS[table], KEYS[table], stamps=())
        versions[table] = result.version
        counts |= result.counts(table)
    done = live["model_version"] == version and dict(live["versions"]) == versions
    if not done:
        record_publication(
            context,
            {
                "model_version": version,
                "versions": versions,
                "as_of": target["as_of"],
                "kind": "rollback",
                "restores": registry.published_set(target),
            },
        )
    record_published(context, registry.model(spark, lake, version))
    if done:
        return JobResult(NOTHING_TO_DO, f"{said} is live already", versions=versions, model_version=version)
    reason = f"{said} is live again in place of {live['model_version']}"
    return JobResult(reason=reason, counts=counts, versions=versions, model_version=version)


def _target(publications: list[Row], slot: str, to: str | None) -> Row:
    """Return the newest publication of the set that is asked for: of several with the same rows, the one whose versions
    are kept longest."""
    if not publications:
        raise ConfigError(f"nothing has been published into slot {slot} yet, so there is nothing to go back to")
    live, standing = publications[0], registry.standing(publications)
    dropped = publications[len(standing) :]
    if to is None and live["kind"] == "rollback":
        return live
    if to is None:
        found = [row for row in standing if _made_of(row) != _made_of(live)]
        since = " since users were forgotten" if dropped else ""
        fault = (
            f"slot {slot} has had nothing but {live['model_version']} live{since}, so there is nothing to go back to"
        )
    else:
        found = _named(standing, to)
        lost = [] if found else _named(dropped, to)
        if lost:
            raise ConfigError(
                f"publication {lost[0]['run_id']} of model {lost[0]['model_version']} was dropped when users were "
                f"forgotten ({standing[-1]['published_at']:%Y-%m-%d}), so slot {slot} cannot go back to it; publish "
                f"the model anew from its candidate: `factorlake publish --model {lost[0]['model_version']} --force`"
            )
        fault = f"slot {slot} has had no publication or model {to!r}; `factorlake history --slot {slot}` lists them"
    if not found:
        raise ConfigError(fault)
    wanted = registry.published_set(found[0])
    return next(row for row in standing if registry.published_set(row) == wanted)


def _named(publications: list[Row], to: str) -> list[Row]:
    """Return the publications of a run or else of a model, newest first."""
    return [row for row in publications if row["run_id"] == to] or [
        row for row in publications if row["model_version"] == to
    ]


def _made_of(row: Row) -> tuple[str, int | None]:
    return row["model_version"], dict(row["versions"]).get(LISTS)


def _way_out(version: str) -> str:
    return (
        "go back to another publication (`factorlake history` lists them, `factorlake rollback --to` takes one), or "
        f"publish the model anew from its candidate: `factorlake publish --model {version} --force`"
    )
