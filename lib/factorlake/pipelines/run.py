"""All stages in turn, from the log to published lists; what is done is not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from factorlake.errors import DONE, NOTHING_TO_DO, ConfigError, FactorlakeError
from factorlake.pipelines import attributes, evaluate, ingest, publish, recommend, train, validate
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.demo import prepare_demo_log
from factorlake.pipelines.report import write_report
from factorlake.reporting.content import Stage

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[..., JobResult]] = {
    "ingest": ingest.run,
    "validate": validate.run,
    "attributes": attributes.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "recommend": recommend.run,
    "publish": partial(publish.run, by_name=False),
}
OF_A_MODEL = ("evaluate", "recommend", "publish")


def run(context: Context, first: str = "ingest", last: str = "publish") -> JobResult:
    """Run the stages from ``first`` to ``last`` and write the report.

    Each stage knows by its own tables what is left for it to do, so a run that was killed between two stages, or
    inside one, goes on where it is needed when it is started again. A stage that refuses ends the run; what is
    published stays. 99 when no stage had anything to do.
    """
    names = list(STAGES)
    if names.index(first) > names.index(last):
        raise ConfigError(f"--from {first} comes after --to {last}; the stages are {', '.join(names)}")
    chosen = names[names.index(first) : names.index(last) + 1]
    combined = JobResult(NOTHING_TO_DO, "nothing to do: no new events")
    stages: list[Stage] = []
    warnings: list[str] = []
    if context.settings.demo is not None and "ingest" in chosen:
        context.progress("log: writing the embedded log")
        prepare_demo_log(context.settings)
    for name in chosen:
        began = time.perf_counter()
        staged = replace(context, progress=lambda message, name=name: context.progress(f"{name}: {message}"))  # type: ignore[misc]
        staged.progress("start")
        try:
            # The model of these settings, which need not be the one trained last.
            model = {"model": combined.model_version} if name in OF_A_MODEL else {}
            result = STAGES[name](staged, **model)
        except FactorlakeError as error:
            result = JobResult(error.exit_code, str(error))
        stages.append(Stage(name, time.perf_counter() - began, result.reason))
        combined.counts |= {f"{name}.{key}": value for key, value in result.counts.items()}
        combined.versions |= result.versions
        warnings += result.details.get("warnings", [])
        combined.model_version = result.model_version or combined.model_version
        if name == "publish" and result.exit_code == combined.exit_code == NOTHING_TO_DO:
            combined.reason = f"nothing to do: {result.reason}"
        if result.exit_code == DONE:
            combined.exit_code, combined.reason = DONE, "done"
        elif result.exit_code != NOTHING_TO_DO:
            combined.exit_code, combined.reason = result.exit_code, f"{name}: {result.reason}"
            break
    combined.details["warnings"] = warnings
    if warnings and combined.exit_code == DONE:
        combined.reason = f"done, with warnings: {'; '.join(warnings)}"
    combined.details["stages"] = {s.name: round(s.seconds, 2) for s in stages}
    try:
        combined.details["report"], combined.details["summary"] = write_report(context, combined, stages)
    except Exception:
        # How the stages ended stands, whatever becomes of the page that tells of it.
        log.exception("the report could not be written")
    return combined
