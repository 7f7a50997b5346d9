"""The command line: `factorlake VERB`, and the same from jobs/*.py under spark-submit."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from factorlake.config.loader import conf_folder, load_settings
from factorlake.config.settings import Settings
from factorlake.errors import DONE, ConfigError, FactorlakeError
from factorlake.paths import has_scheme

app = typer.Typer(
    help="From interaction logs to published recommendations on Spark and Delta.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[list[str] | None, typer.Option("--config", help="Conf file; repeat to lay one over another.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Set one value: section.key=value. Repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the settings and tell what would be done.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the resolved settings as JSON and end.")]
Json = Annotated[bool, typer.Option("--json", help="Print nothing but the result line.")]
Slot = Annotated[str | None, typer.Option("--slot", help="As publish.slot.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="As select.as_of: know no more than was known then.")]
Model = Annotated[str | None, typer.Option("--model", help="Model version; by default that of these settings.")]


def run_job(verb: str, argv: list[str] | None = None) -> int:
    """Run one verb with its arguments and return its exit code. Used by jobs/*.py and notebooks."""
    return invoke([verb, *(sys.argv[1:] if argv is None else argv)])


def invoke(argv: list[str]) -> int:
    """Run the command line with the given arguments and return the exit code instead of leaving the process."""
    try:
        app(args=argv, prog_name="factorlake")
    except SystemExit as end:
        return int(end.code or DONE)
    except FactorlakeError as error:
        print(f"error: {error}", file=sys.stderr)
        print(json.dumps({"job": argv[0] if argv else None, "exit_code": error.exit_code, "reason": str(error)}))
        return error.exit_code
    return DONE


def main() -> None:
    """Entry point of the `factorlake` command."""
    sys.exit(invoke(sys.argv[1:]))


def _job(
    verb: str,
    config: list[str] | None,
    overrides: list[str] | None,
    dry_run: bool,
    print_config: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Load the settings, then run the job, or tell what it would do."""
    from factorlake.reporting.masking import masked_settings

    settings = load_settings(config or (), overrides or ())
    if print_config:
        print(json.dumps(masked_settings(settings.model_dump(by_alias=True, mode="json")), indent=2))
        return DONE
    _check_input(verb, settings)
    if dry_run:
        print(json.dumps(_plan_of(verb, settings)))
        return DONE
    _configure_logging(quiet)
    _one_blas_thread()
    from factorlake.pipelines.jobs import execute
    from factorlake.reporting.progress import open_progress
    from factorlake.spark.session import open_session

    with open_progress(quiet) as progress:
        line = execute(
            verb,
            settings,
            conf_dir=conf_folder(config or ()),
            open_session=lambda: open_session(settings.spark),
            progress=progress,
            options=options,
        )
    summary = line.pop("summary", None)
    if summary and not quiet:
        print(summary)
    if line["exit_code"] not in (DONE, 99):
        print(f"{verb}: {line['reason']}", file=sys.stderr)
    print(json.dumps(_finite(line), default=str, allow_nan=False), flush=True)
    return int(line["exit_code"])


def _finite(value: Any) -> Any:
    """Return a value with null for each number that JSON has no name for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_input(verb: str, settings: Settings) -> None:
    """Refuse a log that is not there before Spark takes its seconds to start."""
    if verb in ("ingest", "run") and not settings.demo:
        given = settings.require_input()
        if not has_scheme(given) and not any(mark in given for mark in "*?[{") and not Path(given).exists():
            raise ConfigError(f"input {given} does not exist; set `input` to the folder or file of the log")


def _plan_of(verb: str, settings: Settings) -> dict[str, Any]:
    from factorlake.pipelines.jobs import JOBS
    from factorlake.tables.names import Lake

    job = JOBS[verb]
    lake = Lake.at(settings.root, settings.recommender)
    return {
        "job": verb,
        "dry_run": True,
        "exit_code": DONE,
        "reads": settings.input if verb in ("ingest", "run") else lake.root,
        "writes": [f"{lake.root}/{name}" for name in job.shared]
        + [f"{lake.root}/{lake.recommender}/{name}" for name in job.own],
    }


def _configure_logging(quiet: bool) -> None:
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for chatty in ("py4j", "great_expectations", "matplotlib", "numba", "pyspark"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _one_blas_thread() -> None:
    """Threads come from blocks; a BLAS that starts its own beside them slows both down."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _with(overrides: list[str] | None, given: dict[str, Any]) -> list[str]:
    """Return the overrides, and after them the settings that options gave."""
    said = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    return [*(overrides or ()), *said]


def _plain(verb: str, text: str) -> None:
    """Register a verb that takes only the common options."""

    def command(
        config: Config = None,
        overrides: Set = None,
        dry_run: DryRun = False,
        print_config: PrintConfig = False,
        quiet: Json = False,
    ) -> None:
        raise typer.Exit(_job(verb, config, overrides, dry_run, print_config, quiet))

    command.__doc__ = text
    app.command(verb)(command)


_plain("ingest", "Take new files of the log into raw_events, each record once.")
_plain("attributes", "Take names and attributes of users and items.")
_plain("replay", "Move records in quarantine to the accepted events where the rules of now accept them.")
_plain("sgd", "Train a candidate on ratings by stochastic gradients, plain or Adam.")


@app.command()
def train(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    as_of: AsOf = None,
) -> None:
    """Train a candidate model on the accepted events."""
    known = _with(overrides, {"select.as_of": as_of})
    raise typer.Exit(_job("train", config, known, dry_run, print_config, quiet))


@app.command()
def recommend(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    model: Model = None,
    as_of: AsOf = None,
) -> None:
    """Write a candidate's top-k lists."""
    known = _with(overrides, {"select.as_of": as_of})
    raise typer.Exit(_job("recommend", config, known, dry_run, print_config, quiet, model=model))


@app.command()
def validate(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    accept: Annotated[str | None, typer.Option("--accept", help="Take this refused batch after all.")] = None,
) -> None:
    """Accept or quarantine each new record; refuse batches out of their limits."""
    raise typer.Exit(_job("validate", config, overrides, dry_run, print_config, quiet, accept=accept))


class Peer(StrEnum):
    """Packages whose model `evaluate` trains and judges beside ours."""

    pyspark_ml = "pyspark_ml"


@app.command()
def evaluate(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    model: Model = None,
    recommendations: Annotated[
        list[str] | None,
        typer.Option("--recommendations", help="Also judge this table: user_id, item_id, rank or score. Repeatable."),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="What to call that table; repeat in the tables' order.")
    ] = None,
    compare: Annotated[
        list[Peer] | None, typer.Option("--compare", help="Also train and judge another package's model.")
    ] = None,
    as_of: AsOf = None,
) -> None:
    """Judge a candidate on events it has not seen, beside baselines and whatever tables are handed in."""
    others = {
        "recommendations": list(recommendations or ()),
        "names": list(name or ()),
        "compare": [peer.value for peer in compare or ()],
    }
    known = _with(overrides, {"select.as_of": as_of})
    raise typer.Exit(_job("evaluate", config, known, dry_run, print_config, quiet, model=model, **others))


@app.command()
def tune(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    trials: Annotated[int | None, typer.Option("--trials", help="As tune.trials.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="As tune.out: the conf file to write.")] = None,
) -> None:
    """Search settings on held-out pairs of the accepted events, and write the best as a conf file."""
    given = {"tune.trials": trials, "tune.out": out}
    raise typer.Exit(_job("tune", config, _with(overrides, given), dry_run, print_config, quiet))


@app.command()
def publish(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    model: Model = None,
    force: Annotated[bool, typer.Option("--force", help="Publish although the gate calls the model worse.")] = False,
) -> None:
    """Make a candidate live: factors and lists, each in one commit."""
    raise typer.Exit(_job("publish", config, overrides, dry_run, print_config, quiet, model=model, force=force))


@app.command()
def rollback(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    slot: Slot = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Publication (run id) or model; by default the one before what is live."),
    ] = None,
) -> None:
    """Bring back what an earlier publication made live, each table in one commit."""
    in_slot = _with(overrides, {"publish.slot": slot})
    raise typer.Exit(_job("rollback", config, in_slot, dry_run, print_config, quiet, to=to))


@app.command()
def maintain(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Keep files for less than a week all the same.")] = False,
) -> None:
    """Compact and vacuum tables, remove candidates that nobody can go back to."""
    raise typer.Exit(_job("maintain", config, overrides, dry_run, print_config, quiet, force=force))


@app.command()
def forget(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    user: Annotated[str | None, typer.Option("--user", help="Id of the user, as the log has it.")] = None,
    users_file: Annotated[
        str | None,
        typer.Option("--users-file", help="Text file with an id in each line; ids stay off the command line."),
    ] = None,
) -> None:
    """Remove users from every table of the lake; the next maintain removes them from its history."""
    raise typer.Exit(_job("forget", config, overrides, dry_run, print_config, quiet, user=user, users_file=users_file))


class Method(StrEnum):
    """The methods of `decompose`."""

    svd = "svd"
    rpca = "rpca"
    nmf = "nmf"


@app.command()
def decompose(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    method: Annotated[Method | None, typer.Option("--method", help="As decompose.method.")] = None,
    source: Annotated[str | None, typer.Option("--input", help="As decompose.input.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="As decompose.rank.")] = None,
) -> None:
    """Take a matrix apart: truncated SVD, robust PCA or NMF of a table, a picture, a clip, or the log."""
    given = {"method": method and method.value, "input": source, "rank": rank}
    said = [f"decompose.{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    raise typer.Exit(_job("decompose", config, [*(overrides or ()), *said], dry_run, print_config, quiet))


class Stage(StrEnum):
    """The stages of `run`, in order."""

    ingest = "ingest"
    validate = "validate"
    attributes = "attributes"
    train = "train"
    evaluate = "evaluate"
    recommend = "recommend"
    publish = "publish"


@app.command()
def run(
    config: Config = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    quiet: Json = False,
    first: Annotated[Stage, typer.Option("--from", help="First stage.")] = Stage.ingest,
    last: Annotated[Stage, typer.Option("--to", help="Last stage.")] = Stage.publish,
) -> None:
    """Run all stages, from the log to published lists; finished stages are not done again."""
    raise typer.Exit(_job("run", config, overrides, dry_run, print_config, quiet, first=str(first), last=str(last)))


@app.command()
def plan(
    users: Annotated[int, typer.Option(help="Users with at least one event.")],
    items: Annotated[int, typer.Option(help="Items with at least one event.")],
    events: Annotated[int, typer.Option(help="Distinct pairs of user and item.")],
    rank: Annotated[int, typer.Option(help="Factors of each user and item.")] = 64,
    k: Annotated[int, typer.Option("--k", help="Length of the lists.")] = 10,
    epochs: Annotated[int, typer.Option(help="Training epochs.")] = 15,
    as_json: Json = False,
) -> None:
    """Tell what training and lists of a given size need, on three clusters. Starts no Spark."""
    from factorlake.models.estimate import CLUSTERS, Load, estimate
    from factorlake.reporting.estimates import estimate_line, estimate_table

    load = Load(users, items, events, rank, epochs, k)
    estimates = [estimate(load, cluster) for cluster in CLUSTERS]
    if not as_json:
        print(estimate_table(estimates), file=sys.stderr)
    print(json.dumps(estimate_line(load, estimates)))


def _without_run(name: str, text: str) -> None:
    """Register a command that reads and reports, without a run of its own."""

    def command(
        config: Config = None,
        overrides: Set = None,
        quiet: Json = False,
    ) -> None:
        raise typer.Exit(_show(name, config, overrides, quiet))

    command.__doc__ = text
    app.command(name)(command)


def _show(name: str, config: list[str] | None, overrides: list[str] | None, quiet: bool, **options: Any) -> int:
    _configure_logging(quiet)
    _one_blas_thread()
    settings = load_settings(config or (), overrides or ())
    module = importlib.import_module(f"factorlake.pipelines.{name}")
    return int(module.show(settings, as_json=quiet, **options))


_without_run("doctor", "Check Java, jars, workers, write access and memory, with the line that mends each fault.")
_without_run("status", "Show the last runs, models and publications.")
_without_run("report", "Write the HTML report of the model trained last again.")


@app.command()
def migrate(
    config: Config = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what each table would get, and touch none.")] = False,
    quiet: Json = False,
) -> None:
    """Bring the tables of a lake to the schema version of this release."""
    raise typer.Exit(_show("migrate", config, overrides, quiet, dry_run=dry_run))


@app.command()
def history(
    config: Config = None,
    overrides: Set = None,
    quiet: Json = False,
    slot: Slot = None,
) -> None:
    """Show the publications of a slot, newest first: the first is live."""
    raise typer.Exit(_show("history", config, _with(overrides, {"publish.slot": slot}), quiet))
