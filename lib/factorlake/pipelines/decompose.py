"""Take a matrix apart: reads a table, a picture, a clip or interactions, writes decompositions/VERSION and a models
row."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import factorlake
from factorlake.errors import NOTHING_TO_DO, ConfigError
from factorlake.media import write_clip, write_picture
from factorlake.pipelines import decompose_nmf, decompose_rpca, decompose_svd
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.decompose_input import Source, find_source
from factorlake.pipelines.decomposed import Decomposed
from factorlake.pipelines.report import save_report
from factorlake.reporting.content import Decomposition, RunReport, Stage
from factorlake.reporting.picture_plates import plate_drawing, plate_png
from factorlake.tables import registry
from factorlake.tables.schemas import SCHEMAS

METHODS = {"svd": decompose_svd.run, "rpca": decompose_rpca.run, "nmf": decompose_nmf.run}
# Settings that say how a decomposition is computed or shown and not which: where the input lies.
NOT_DECIDING = ("input",)


def run(context: Context) -> JobResult:
    """Decompose what the settings name and write its factors, trace, pictures and report.

    The version is made of the method, the contents, the settings and the seed: what is decomposed already is not
    decomposed again (99). Everything is written over before the models row is, so a run that was killed leaves nothing
    that a second one does not mend.
    """
    spark, lake, settings = context.spark, context.lake, context.settings.decompose
    if not lake.is_local:
        raise ConfigError(
            f"decompose works on files beside its tables, and {lake.root} is a store: set `root` to a folder that "
            "driver and workers see"
        )
    began = time.perf_counter()
    source = find_source(context)
    version = decomposition_version(context, source)
    if registry.model(spark, lake, version) is not None:
        return JobResult(NOTHING_TO_DO, f"{source.name} is decomposed already: {version}", model_version=version)
    context.progress(f"{settings.method} of {source.name}")
    folder = lake.decomposition_folder(version)
    workspace = f"{folder}/workspace"
    try:
        found = METHODS[settings.method](context, source, workspace)
        versions = _write(context, found, version)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    _save_pictures(found, f"{folder}/pictures")
    row = {
        "model_version": version,
        "state": "decomposed",
        "objective": settings.method,
        "rank": found.rank,
        "settings": json.dumps(settings.model_dump(mode="json")),
        "seed": context.settings.seed,
        "n_users": found.shape[0],
        "n_items": found.shape[1],
        "n_observed": found.n_cells,
        "fingerprint": source.contents,
        "epochs": max((row.epoch for row in found.trace), default=0),
        "loss": found.trace[-1].loss if found.trace else None,
        "metrics": found.figures,
    }
    versions["models"] = context.record_model(row)
    result = JobResult(
        counts={"rows": found.shape[0], "columns": found.shape[1], "cells": found.n_cells, "rank": found.rank},
        versions=versions,
        model_version=version,
        details={"figures": found.figures, "folder": folder},
    )
    report = _report(context, source, found, result, time.perf_counter() - began)
    result.details["report"], result.details["summary"] = save_report(context, report)
    return result


def decomposition_version(context: Context, source: Source) -> str:
    """Return the version of a decomposition: its method and a hash of the contents, the settings and the seed."""
    what = {
        "engine": factorlake.__version__,
        "kind": source.kind,
        "contents": source.contents,
        "decompose": context.settings.decompose.model_dump(mode="json", exclude=set(NOT_DECIDING)),
        "seed": context.settings.seed,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
    return f"{context.settings.decompose.method}-{digest}"


def _write(context: Context, found: Decomposed, version: str) -> dict[str, int]:
    lake, settings = context.lake, context.settings.decompose
    frames = {"row_factors": found.rows, "column_factors": found.columns}
    if found.sparse_cells is not None:
        frames["sparse_cells"] = found.sparse_cells
    versions = {
        name: context.overwrite(frame, lake.decomposition(version, name), SCHEMAS[name]).version
        for name, frame in frames.items()
    }
    rows = [
        {
            "model_version": version,
            "epoch": row.epoch,
            "side": row.side,
            "state": row.state,
            "loss": float(row.loss),
            "observed_loss": row.observed_loss,
            "regularization_loss": row.regularization_loss,
            "metric_name": row.metric_name,
            "metric": row.metric,
            "seconds": float(row.seconds),
            "plan": found.plan,
            "solver": settings.method,
            "run_id": context.run_id,
        }
        for row in found.trace
    ]
    path = lake.decomposition(version, "trace")
    versions["trace"] = context.append_rows(rows, path, SCHEMAS["trace"], app_id=f"trace:{version}").version
    return versions


def _save_pictures(found: Decomposed, folder: str) -> None:
    if found.pictures or found.clips or found.plates:
        os.makedirs(folder, exist_ok=True)
    for name, plate in found.plates.items():
        Path(f"{folder}/{name}.png").write_bytes(plate_png(plate))
    for name, pixels in found.pictures.items():
        write_picture(f"{folder}/{name}.png", pixels)
    for name, frames in found.clips.items():
        write_clip(f"{folder}/{name}", frames)


def _report(context: Context, source: Source, found: Decomposed, result: JobResult, seconds: float) -> RunReport:
    return RunReport(
        run_id=context.run_id,
        recommender=context.settings.recommender,
        started=datetime.now(UTC),
        reason=f"{source.name} was decomposed",
        model_version=result.model_version,
        stages=(Stage("decompose", seconds),),
        settings=context.settings.model_dump(by_alias=True, mode="json"),
        versions=result.versions,
        decomposition=Decomposition(
            context.settings.decompose.method,
            source.name,
            found.facts,
            (*(plate_drawing(plate, name) for name, plate in found.plates.items()), *found.drawings),
            found.topics,
        ),
    )
