"""What `decompose` is given: what it is by its path or columns, and the hash of its contents."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from factorlake.config.settings import DecomposeSettings
from factorlake.errors import ConfigError, DataRefusedError
from factorlake.media import CLIPS, PICTURES
from factorlake.paths import has_scheme, resolved
from factorlake.pipelines.context import Context
from factorlake.pipelines.models import selected_events, training_pairs
from factorlake.tables import delta_io

Kind = Literal["picture", "clip", "rows", "cells"]


@dataclass(frozen=True)
class Source:
    """One matrix to take apart, not yet read."""

    kind: Kind
    name: str
    """What it is, in a few words."""
    contents: str
    """Hash of what it holds, whatever the order of rows or files."""
    path: str | None = None
    """Of a picture or clip."""
    table: DataFrame | None = None
    """rows: (id, values); cells: (user_id, item_id, value), as ratings are, of which users are the rows."""


def find_source(context: Context) -> Source:
    """Return what the settings name: a picture, a clip, a table, or else the accepted events of the log.

    Raises
    ------
    ConfigError : nothing lies there, or it cannot be told what it is.
    DataRefusedError : a table without the columns that the settings name.
    """
    settings = context.settings.decompose
    if settings.input is None:
        return _log(context)
    path = resolved(settings.input)
    if not has_scheme(path) and not os.path.exists(path):
        raise ConfigError(f"decompose.input {path} does not exist; set it to a picture, a clip or a table")
    kind = settings.kind if settings.kind != "auto" else _kind_of_path(path)
    if kind in ("picture", "clip"):
        return Source(kind, f"the {kind} {Path(path).name}", _hash_of_files(path), path=path)
    return _table(context, path, kind)


def _kind_of_path(path: str) -> Kind | None:
    """Return what a path holds by its ending or, of a folder, by its files; None of what may be a table."""
    name = path.lower()
    if name.endswith(PICTURES):
        return "picture"
    if name.endswith(CLIPS):
        return "clip"
    if not has_scheme(path) and os.path.isdir(path) and not os.path.isdir(f"{path}/_delta_log"):
        names = [entry.lower() for entry in os.listdir(path) if not entry.startswith(".")]
        if names and all(entry.endswith(PICTURES) for entry in names):
            return "clip"
    return None


def _hash_of_files(path: str) -> str:
    digest = hashlib.sha256()
    files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
    for file in files:
        if file.is_file() and not file.name.startswith("."):
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _table(context: Context, path: str, kind: str | None) -> Source:
    settings, spark = context.settings.decompose, context.spark
    form = "delta" if delta_io.exists(spark, path) else "parquet"
    try:
        frame = spark.read.format(form).load(path)
        columns = {field.name: field.dataType for field in frame.schema.fields}
    except Exception as error:  # what a file is no table for comes as errors of many kinds
        raise ConfigError(
            f"decompose.input {path} is neither a picture, a clip nor a table in Delta or Parquet; tell what it is by "
            f"decompose.kind ({str(error).partition(chr(10))[0]})"
        ) from None
    if kind is None:
        kind = "rows" if isinstance(columns.get(settings.values_column), ArrayType) else "cells"
    wanted = _columns(settings, kind)
    missing = [f"{name} ({setting})" for setting, name in wanted.items() if name not in columns]
    if missing:
        raise DataRefusedError(
            f"the table {path}, read as {kind}, lacks the column {missing[0]}; it has {', '.join(columns)}"
        )
    if kind == "rows":
        chosen = frame.select(
            F.col(f"`{settings.id_column}`").alias("id"), F.col(f"`{settings.values_column}`").alias("values")
        )
    else:
        chosen = frame.select(
            F.col(f"`{settings.row_column}`").alias("user_id"),
            F.col(f"`{settings.column_column}`").alias("item_id"),
            F.col(f"`{settings.value_column}`").alias("value"),
        )
    return Source(kind, f"the table {Path(path).name}", _hash_of_rows(chosen), table=chosen)  # type: ignore[arg-type]


def _columns(settings: DecomposeSettings, kind: str) -> dict[str, str]:
    if kind == "rows":
        return {"decompose.id_column": settings.id_column, "decompose.values_column": settings.values_column}
    return {
        "decompose.row_column": settings.row_column,
        "decompose.column_column": settings.column_column,
        "decompose.value_column": settings.value_column,
    }


def _log(context: Context) -> Source:
    version = delta_io.version(context.spark, context.lake.shared("interactions"))
    if version < 0:
        raise ConfigError("there are no accepted events yet: set decompose.input, or run `factorlake validate` first")
    pairs = training_pairs(context, selected_events(context, version))
    return Source("cells", "the log, users by items", _hash_of_rows(pairs), table=pairs)


def _hash_of_rows(frame: DataFrame) -> str:
    """Return the count with the sum and the exclusive or of the rows' hashes, whatever their order."""
    row_hash = F.xxhash64(*frame.columns)
    row = frame.agg(
        F.count(F.lit(1)).alias("n"), F.sum(row_hash.cast("decimal(38,0)")).alias("total"), F.bit_xor(row_hash)
    ).collect()[0]
    return ":".join(str(value) for value in row)
