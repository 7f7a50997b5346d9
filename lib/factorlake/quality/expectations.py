"""A Great Expectations suite from conf, run on accepted rows. It reports; our own gate decides.

Great Expectations takes seconds to import and has crashed on good data before, so it is loaded late and
whatever it does wrong is a finding in the results, never the end of a job. Only booleans and counts leave it:
no value of a row.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

from factorlake.config.loader import read_yaml
from factorlake.errors import ConfigError

log = logging.getLogger(__name__)

DID_NOT_RUN = "great_expectations"
# Counts without an example of a row. Data docs show whatever a result holds, so theirs hold booleans alone.
COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}
MAX_SUITE_BYTES = 1 << 20
NAME = "interactions"


@dataclass(frozen=True)
class Finding:
    """One expectation's outcome; ``rule`` tells its type and column. ``success`` is None when it did not
    run. ``broken``: rows that broke it; None where it counts no rows, and with data docs."""

    rule: str
    success: bool | None
    detail: str | None = None
    broken: int | None = None


def read_suite(name: str, conf_dir: str) -> list[dict[str, Any]]:
    """Return a suite: a list of mappings with ``type``, usually ``column``, and the type's own arguments.

    ``name`` is a path that ends in .yaml or .yml, or the name of a file in ``conf_dir``/expectations.

    Raises
    ------
    ConfigError : there is no such file, or it is not such a list.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path(conf_dir) / "expectations" / f"{name}.yaml"
    try:
        if path.stat().st_size > MAX_SUITE_BYTES:
            raise ConfigError(f"the suite {path} is larger than {MAX_SUITE_BYTES} bytes")
        suite = read_yaml(path.read_text(encoding="utf-8"), f"the suite {path}")
    except (OSError, ValueError):
        raise ConfigError(
            f"the suite {path} cannot be read: set `validate.expectations` to a file in {conf_dir}/expectations"
        ) from None
    if not isinstance(suite, list) or not all(
        isinstance(item, dict) and isinstance(item.get("type"), str) for item in suite
    ):
        raise ConfigError(f"the suite {path} must be a list of mappings, each with a `type`")
    return suite


def run_suite(rows: DataFrame, suite: list[dict[str, Any]], docs_folder: str | None = None) -> list[Finding]:
    """Run the suite on ``rows``; also write data docs where ``docs_folder`` names a folder.

    Never raises: when Great Expectations cannot be imported or fails, one finding named `DID_NOT_RUN` says
    so.
    """
    try:
        return _run(rows, suite, docs_folder)
    except Exception as error:  # a broken validation library must not break the pipeline
        log.warning("Great Expectations did not run: %s", type(error).__name__)
        reason = (str(error).splitlines() or [""])[0][:200]
        return [Finding(DID_NOT_RUN, None, f"did not run: {type(error).__name__}: {reason}")]


def _run(rows: DataFrame, suite: list[dict[str, Any]], docs_folder: str | None) -> list[Finding]:
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_spark(NAME, persist=False)
    whole = source.add_dataframe_asset(NAME).add_batch_definition_whole_dataframe(NAME)
    expectations = context.suites.add(gx.ExpectationSuite(NAME))
    for item in suite:
        arguments = {name: value for name, value in item.items() if name != "type"}
        expectations.add_expectation(ExpectationConfiguration(type=item["type"], kwargs=arguments).to_domain_obj())
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=NAME, data=whole, suite=expectations))
    parameters = {"dataframe": rows}
    if docs_folder is None:
        result = definition.run(batch_parameters=parameters, result_format=COUNTS_ONLY)
    else:
        context.add_data_docs_site(
            site_name=NAME,
            site_config={
                "class_name": "SiteBuilder",
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": docs_folder},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
        checkpoint = gx.Checkpoint(
            name=NAME,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="docs", site_names=[NAME])],
            result_format="BOOLEAN_ONLY",
        )
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters=parameters)
        result = next(iter(outcome.run_results.values()))
    return [_finding(item) for item in result.results]


def _finding(result: Any) -> Finding:
    configuration = result.expectation_config
    column = configuration.kwargs.get("column")
    rule = configuration.type + (f"({column})" if column else "")
    failure = (result.exception_info or {}).get("raised_exception")
    if failure or (result.exception_info and "raised_exception" not in result.exception_info):
        return Finding(rule, None, "did not run: it raised an exception")
    broken = (result.result or {}).get("unexpected_count")
    return Finding(rule, bool(result.success), broken=None if broken is None else int(broken))
