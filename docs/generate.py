"""Write docs/tables.md and docs/configuration.md from the code that they describe.

    python -m docs.generate            write both pages
    python -m docs.generate --check    write nothing; exit code 1 when a page is not what the code says

tables.md comes from factorlake.tables (schemas and names), configuration.md from the settings classes and the
docstrings under their fields. Needs neither Java nor a Spark session.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from factorlake.config.settings import SHARED_TABLES, Settings
from factorlake.errors import ConfigError
from factorlake.pipelines.jobs import JOBS
from factorlake.tables.names import CANDIDATE_TABLES, DECOMPOSITION_TABLES, PUBLISHED_TABLES, RECOMMENDER_TABLES
from factorlake.tables.schemas import SCHEMA_VERSION, SCHEMAS, TableSchema

FOLDER = Path(__file__).resolve().parent
NOTE = "<!-- Written by `make docs` from the code. Edit the code, not this page. -->"

TABLES_HEAD = f"""# Tables

{NOTE}

Every table is a Delta table, found by its path. `ROOT` is the setting `root`, `RECOMMENDER` the setting
`recommender`, `VERSION` a model version, `SLOT` the setting `publish.slot`. The comments below stand in the
tables themselves too (`DESCRIBE TABLE`). The schema version is {SCHEMA_VERSION}; it stands in the table
property `factorlake.schemaVersion`.

All tables keep Delta's reader protocol 1, without deletion vectors and column mapping, so that DuckDB,
Polars, delta-rs and pandas read them ([how](operations.md#read-the-published-tables)). Times are instants
in UTC.
"""

GROUPS = (
    (
        "Shared by all recommenders",
        "ROOT/{table}",
        "The log, what was made of it, and the record of runs.",
        SHARED_TABLES,
    ),
    (
        "Of one recommender",
        "ROOT/RECOMMENDER/{table}",
        "Models, how they were trained and judged, and what was published when. Registers are append-only: "
        "of the rows with one key the latest holds.",
        RECOMMENDER_TABLES,
    ),
    (
        "Of one model that is not published yet",
        "ROOT/RECOMMENDER/candidates/VERSION/{table}",
        "`train` writes factors, `recommend` writes lists, `publish` reads both.",
        CANDIDATE_TABLES,
    ),
    (
        "Of a decomposed matrix",
        "ROOT/RECOMMENDER/decompositions/VERSION/{table}",
        "`decompose` writes them; VERSION is made of the method and a hash of the input and the settings. Its row in "
        "`models` has the state `decomposed`.",
        DECOMPOSITION_TABLES,
    ),
    (
        "Published",
        "ROOT/RECOMMENDER/{table}",
        "What readers query. They hold only what is live. The slot `live` lies here; any other slot has the "
        "same tables in `ROOT/RECOMMENDER/slots/SLOT/`. `publish` and `rollback` write them, each in one commit; a "
        "user or item whose content did not change keeps its row, with its `model_version` and `as_of`. A "
        "`publications` row names the Delta versions that belong together.",
        PUBLISHED_TABLES,
    ),
)

WORKING_STORAGE = """
## Working storage of a run

`ROOT/RECOMMENDER/candidates/VERSION/rating_blocks` holds the ratings as numbers while a model is trained: arrays in
files where driver and workers see the root; elsewhere, and not under the plan `local`, a Delta table partitioned by
side and block, one row a logical block. `.../exchange` holds arrays on their way between driver and workers. Both are
removed when the run ends. On an object store `rating_blocks` stays and is overwritten by the next run of the same
version.

`ROOT/_lease` and `ROOT/RECOMMENDER/_lease` hold the [leases](operations.md#one-writer-at-a-time),
`ROOT/RECOMMENDER/reports` the report of each run as HTML and as JSON.
"""

CONFIGURATION_HEAD = f"""# Configuration

{NOTE}

Settings come in layers; a later layer wins:

1. the defaults below,
2. conf files, in the order of `--config` (repeatable): mappings are merged key by key, lists are replaced,
3. environment variables: `FACTORLAKE__TRAIN__RANK=64` sets `train.rank` (two underscores between the parts),
4. `--set train.rank=64` (repeatable); the value is read as YAML.

In any text of a conf file `${{NAME}}` stands for an environment variable, `${{NAME:-default}}` for one that
may be missing. Conf files are plain YAML: a key given twice is an error, and so is an unknown name, which is
answered with the nearest known one. `--print-config` prints the resolved settings, with secrets masked;
`--dry-run` checks them and tells what the job would read and write.

conf/base holds a conf file for each log that the project knows; settings of one machine go to conf/local,
which git ignores. A suite named in `validate.expectations` is looked up in the folder expectations beside the
conf file's own.

In the tables below, *none* is YAML's `null`.
"""


def tables_page() -> str:
    """Return docs/tables.md.

    Raises
    ------
    ConfigError : a schema belongs to none of the groups, so its place is unknown.
    """
    placed = {table for *_, tables in GROUPS for table in tables}
    for table in SCHEMAS:
        if table not in placed:
            raise ConfigError(f"table {table!r} is in no group: add it to the names in factorlake.tables.names")
    parts = [TABLES_HEAD]
    for title, path, purpose, tables in GROUPS:
        parts.append(f"## {title}\n\n{purpose}\n")
        parts += [_table(SCHEMAS[table], path.format(table=table)) for table in tables if table in SCHEMAS]
    return "\n".join([*parts, WORKING_STORAGE.strip(), ""])


def _table(schema: TableSchema, path: str) -> str:
    writers = [job.verb for job in JOBS.values() if job.verb != "run" and schema.name in (*job.shared, *job.own)]
    written = f" Written by {' and '.join(f'`{verb}`' for verb in writers)}." if writers else ""
    if schema.name == "runs":
        written = " Written by every job."
    rows = [
        f"| {field.name} | `{field.dataType.simpleString()}` | {_cell(field.metadata['comment'])} |"
        for field in schema.fields
    ]
    head = f"### {schema.name}\n\n`{path}`: {schema.comment}{written}\n"
    return "\n".join([head, "| column | type | what it holds |", "| --- | --- | --- |", *rows, ""])


def configuration_page() -> str:
    """Return docs/configuration.md.

    Raises
    ------
    ConfigError : a setting has no docstring.
    """
    schema = Settings.model_json_schema(by_alias=True)
    return "\n".join([CONFIGURATION_HEAD, *_sections(schema, schema["$defs"], ()), ""]).rstrip() + "\n"


def _sections(section: dict[str, Any], known: dict[str, Any], paths: tuple[str, ...]) -> list[str]:
    """Return the text of a section, at one or more ``paths``, and after it of the sections in it."""
    rows: list[str] = []
    inner: dict[str, list[str]] = {}
    optional = set()
    for name, field in section["properties"].items():
        full = f"{paths[0]}.{name}" if paths else name
        refers = _referred(field)
        if refers is not None:
            inner.setdefault(refers, []).append(f"{full}[]" if field.get("type") == "array" else full)
            if field.get("default", "") is None:
                optional.add(refers)
        elif not field.get("description"):
            raise ConfigError(f"the setting {full} has no docstring under its field")
        # A section is described under its own heading; one with a docstring of its own also has a row.
        if refers is None or field.get("description"):
            default = "required" if name in section.get("required", ()) else _default(field.get("default"))
            rows.append(f"| `{name}` | {_kind(field, known)} | {default} | {_cell(field['description'])} |")
    title = f"## {' and '.join(f'`{path}`' for path in paths)}" if paths else "## At the top"
    parts = [f"{title}\n\n{_paragraph(section['description'])}"]
    if rows:
        parts.append("\n".join(["", "| setting | kind | default | meaning |", "| --- | --- | --- | --- |", *rows]))
    parts.append("")
    for refers, where in inner.items():
        below = known[refers]
        if refers in optional:
            below = {**below, "description": f"{below['description']} Absent by default."}
        parts += _sections(below, known, tuple(where))
    return parts


def _referred(field: dict[str, Any]) -> str | None:
    """Return the name of the section that a field holds, as it is or in a list; None for a plain value."""
    for part in (field, field.get("items", {}), *field.get("anyOf", ())):
        if "$ref" in part:
            return str(part["$ref"]).rsplit("/", 1)[-1]
    return None


def _kind(field: dict[str, Any], known: dict[str, Any]) -> str:
    """Return what a field takes, in words."""
    if "$ref" in field:
        return "section"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(part, known) for part in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: " + ", ".join(_kind(i, known) for i in field["prefixItems"])
        return f"list of {_kind(field['items'], known)}s"
    if field.get("type") == "object":
        return f"mapping of names to {_kind(field['additionalProperties'], known)}s"
    names = {
        "null": "none",
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "yes or no",
    }
    return names[field["type"]] + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {field[name]:,}".replace(",", " ") for name, sign in signs.items() if name in field]
    if field.get("minLength") == field.get("maxLength") == 1:
        told.append("of one character")
    return f" {' and '.join(told)}" if told else ""


def _default(value: Any) -> str:
    if value is None:
        return "none"
    # The defaults of a section stand in its own table.
    return "see below" if isinstance(value, dict) and value else f"`{_cell(json.dumps(value))}`"


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _paragraph(text).replace("|", "\\|")


PAGES = {"tables.md": tables_page, "configuration.md": configuration_page}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    check = parser.parse_args(arguments).check
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"{' and '.join(stale)} in docs are not what the code says: run `make docs`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
