"""Which files an input holds, and how each is to be read."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote, urlparse

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import IngestSettings
from factorlake.errors import ConfigError, DataRefusedError
from factorlake.spark.records import FileFormat

ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class SourceFile:
    """One file of the input, as the file system tells it.

    ``size`` in bytes, ``modified_us`` in microseconds since 1970 (None for a file of zero bytes).
    """

    path: str
    size: int
    modified_us: int | None
    form: FileFormat


def list_files(
    spark: SparkSession, path: str, ingest: IngestSettings, *, optional: bool = False
) -> tuple[list[SourceFile], int]:
    """Return the files of ``path`` (a file, or a folder with all below it) by path, and how many were left
    aside.

    Left aside is what `pattern` matches but whose ending names no format. Files whose name starts with _ or .
    are no data by Spark's custom and are not seen at all.

    Raises
    ------
    ConfigError : ``path`` does not exist (``optional``: no files), or the settings of the format contradict
    each other. DataRefusedError : a file is larger than `ingest.max_file_bytes`, a single file has an
    unknown ending, or a link inside a folder of this machine leads out of it.
    """
    _check(ingest)
    rows = _listed(spark, path, optional)
    root = _common_form(path)
    refuse_leading_out(root, [_common_form(file) for file, _, _ in rows])
    found, left_aside = [], 0
    for file, size, modified_us in rows:
        inside = _common_form(file).removeprefix(root).lstrip("/")
        # The path itself is a file: a pattern for the files of a folder does not speak of it.
        if inside and not (
            fnmatchcase(inside, ingest.pattern) or fnmatchcase(inside.rsplit("/", 1)[-1], ingest.pattern)
        ):
            continue
        form = format_of(file, ingest)
        if form is None and not inside:
            raise DataRefusedError(
                f"{file} ends in none of {', '.join(ENDINGS)} (or these with .gz): set `ingest.format`"
            )
        if form is None:
            left_aside += 1
            continue
        if size > ingest.max_file_bytes:
            raise DataRefusedError(
                f"{file} has {size} bytes, more than `ingest.max_file_bytes` "
                f"({ingest.max_file_bytes}): split it, or raise the setting if a worker has the memory"
            )
        found.append(SourceFile(file, size, modified_us, form))
    return found, left_aside


def refuse_leading_out(root: str, files: list[str]) -> None:
    """Raise DataRefusedError where one of the files under ``root`` is, by a link, a file elsewhere: who may write into
    the folder of the log must not choose what else of this machine is read. Of a store there are no links."""
    if not os.path.isdir(root):
        return
    inside = os.path.join(os.path.realpath(root), "")
    for file in files:
        if not os.path.realpath(file).startswith(inside):
            raise DataRefusedError(
                f"{file} is a link that leads out of {root}: put the file there itself, or set `input` to where it lies"
            )


def with_content(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    """Return a frame (path, content) of the files' bytes, one row a file."""
    paths = [literal_path(file.path) for file in files]
    return spark.read.format("binaryFile").load(paths).select("path", "content")


def format_of(path: str, ingest: IngestSettings) -> FileFormat | None:
    """Return how the file at ``path`` is read, by the setting or by its ending; None when neither tells."""
    name = path.lower()
    packed = name.endswith(".gz")
    ending = "." + name.removesuffix(".gz").rsplit(".", 1)[-1]
    kind = ENDINGS.get(ending) if ingest.format == "auto" else ingest.format
    if kind == "csv":
        return FileFormat(
            "csv",
            packed,
            "\t" if ending == ".tsv" and ingest.format == "auto" else ingest.delimiter,
            ingest.quote,
            ingest.header,
            tuple(ingest.column_names),
            ingest.encoding,
        )
    if kind == "json":
        return FileFormat("json", packed, encoding=ingest.encoding)
    return FileFormat("parquet") if kind == "parquet" and not packed else None


def literal_path(path: str) -> str:
    """Escape what Spark would take for a glob, so that a path means the one file it names."""
    return "".join("\\" + character if character in "*?{}[]\\" else character for character in path)


def _check(ingest: IngestSettings) -> None:
    if not ingest.header and not ingest.column_names:
        raise ConfigError("`ingest.header` is false: name the columns in `ingest.column_names`")
    try:
        codecs.lookup(ingest.encoding)
        b"\xff".decode(ingest.encoding, "surrogateescape")
    except UnicodeDecodeError:
        # It makes text of bytes, if not of this one.
        pass
    except (LookupError, ValueError):
        raise ConfigError(
            f"`ingest.encoding` is {ingest.encoding!r}, by which Python reads no text: name utf-8, latin-1 or the like"
        ) from None


def _listed(spark: SparkSession, path: str, optional: bool) -> list[tuple[str, int, int | None]]:
    """Return (path, size, time of change) of every file, by path."""
    try:
        frame = (spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(literal_path(path))).select(
            "path", "length", F.unix_micros("modificationTime").alias("modified_us")
        )
        rows = {row["path"]: (row["length"], row["modified_us"]) for row in frame.collect()}
        # Spark plans no read of a file of zero bytes, so that only the index of the frame knows of it.
        for uri in frame.inputFiles():
            rows.setdefault(_path_of(uri), (0, None))
    except AnalysisException as error:
        if "PATH_NOT_FOUND" in str(error.getCondition()):
            if optional:
                return []
            raise ConfigError(
                f"input {path} does not exist: set `input` to a file, a folder or a Delta table"
            ) from None
        raise
    return [(file, *rows[file]) for file in sorted(rows)]


def _path_of(uri: str) -> str:
    """The path that the binaryFile source tells for a URI: file:/a b for file:///a%20b."""
    parts = urlparse(uri)
    host = f"//{parts.netloc}" if parts.netloc else ""
    return f"{parts.scheme}:{host}{unquote(parts.path)}" if parts.scheme else unquote(uri)


def _common_form(path: str) -> str:
    """A path without its scheme and doubled slashes: file:/a, file:///a and /a are one path."""
    path = path.split(":", 1)[1] if path.startswith("file:") else path
    return "/" + path.lstrip("/") if path.startswith("/") else path
