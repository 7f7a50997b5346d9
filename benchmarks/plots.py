"""The pictures of docs/performance.md, drawn from the newest kept results, and those of docs/decompositions.md.

    python -m benchmarks.plots

Draws what there is a result for: the course of training beside pyspark.ml (train_als-spark-planted-64), seconds and
memory by the number of pairs beside what `factorlake plan` foretells (scale-broadcast-10-20-40-80). The picture and the
clip that are decomposed are drawn by the project itself (`factorlake.evaluation.planted_pictures`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.result import RESULTS
from factorlake.config.settings import DecomposeSettings
from factorlake.evaluation.planted_pictures import clip, colour_picture
from factorlake.media import clip_matrix, matrix_clip, matrix_picture, picture_matrix
from factorlake.models.estimate import GIB, Cluster, Load, estimate
from factorlake.models.robust_pca import RobustPcaParameters, robust_pca
from factorlake.models.row_plan import LocalRowPlan, even_blocks
from factorlake.models.truncated_svd import SvdParameters, truncated_svd
from factorlake.reporting.picture_plates import Plate, picture_plate, plate_png, separation_plate

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "img"
MASK_LEVEL = DecomposeSettings().mask_level
OURS, THEIRS, FORETOLD = "#2166ac", "#b2182b", "#888888"


def newest(name: str) -> dict[str, Any] | None:
    """Return the newest kept result of a benchmark; None where none is kept."""
    kept = sorted(RESULTS.glob(f"????-??-??-{name}.json"))
    result: dict[str, Any] | None = json.loads(kept[-1].read_text()) if kept else None
    return result


def save(figure: Figure, name: str) -> None:
    """Write a figure as SVG, the same bytes for the same result."""
    with mpl.rc_context({"svg.hashsalt": "factorlake", "svg.fonttype": "none"}):
        figure.savefig(IMAGES / name, metadata={"Date": None, "Creator": None})
    print(f"docs/img/{name}")


def training(result: dict[str, Any]) -> None:
    """Draw NDCG@10 over the seconds since the frame of pairs."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    panel: Axes = figure.subplots()
    for name, title, colour in (("factorlake", "factorlake", OURS), ("pyspark_ml", "pyspark.ml", THEIRS)):
        told = result["figures"][name]
        panel.errorbar(
            told["seconds"],
            [mean for mean, _ in told["ndcg"]],
            [error for _, error in told["ndcg"]],
            marker="o",
            color=colour,
            label=title,
        )
    pairs, rank = result["figures"]["pairs"], result["settings"]["rank"]
    panel.set(xscale="log", xlabel="seconds since the frame of pairs", ylabel="NDCG@10", ylim=(0, None))
    panel.set_title(f"{pairs / 1e6:.1f} million pairs, rank {rank}, two cores", fontsize="medium")
    panel.legend()
    save(figure, "training.svg")


def scale(result: dict[str, Any]) -> None:
    """Draw seconds of an epoch and peak memory by the number of pairs, beside what is foretold now."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    settings, sizes = result["settings"], result["figures"]["sizes"]
    cluster = Cluster("that machine", 1, result["machine"]["cores"])
    users, items, rank, epochs = (settings[name] for name in ("users", "items", "rank", "epochs"))
    foretold = [
        estimate(Load(users, items, one["pairs"], rank, epochs, 1, id_bytes=4, from_files=True), cluster, one["plan"])
        for one in sizes
    ]
    pairs = [one["pairs"] / 1e6 for one in sizes]
    panels[0].plot(pairs, [one["epoch"] for one in sizes], "o-", color=OURS, label="an epoch")
    panels[0].plot(pairs, [one.seconds["epochs"] / epochs for one in foretold], "--", color=FORETOLD, label="foretold")
    panels[0].set(ylabel="seconds")
    for key, title, colour, told in (
        ("driver_mib", "driver's Python", OURS, [one.driver_memory for one in foretold]),
        ("workers_mib", "workers", THEIRS, [one.worker_memory for one in foretold]),
    ):
        panels[1].plot(pairs, [one[key] / 1024 for one in sizes], "o-", color=colour, label=title)
        panels[1].plot(pairs, [memory / GIB for memory in told], "--", color=colour)
    panels[1].set(ylabel="GiB at most (dashed: foretold)")
    for panel in panels:
        panel.set(xlabel="million pairs", xlim=(0, None), ylim=(0, None))
        panel.legend()
    save(figure, "scale.svg")


def picture() -> None:
    """Draw a picture and its approximation of rank 50."""
    pixels = colour_picture(256)
    matrix = picture_matrix(pixels)
    with LocalRowPlan(even_blocks(len(matrix), matrix.strides[0])) as plan:
        found = truncated_svd(plan, plan.hold(matrix), matrix.shape[1], SvdParameters(rank=50))
    product = (found.left.whole() * found.singular_values) @ found.right.T
    assert found.error is not None
    plate = picture_plate(pixels, matrix_picture(product, pixels.shape), found.rank, found.error.relative)
    save_plate(plate, "picture.png")


def separation() -> None:
    """Draw frames of a clip, what stays, what moves, and the mask."""
    frames = clip(60, 96, 128).frames.astype(np.float32) / 255
    matrix = clip_matrix(frames)
    with LocalRowPlan(even_blocks(len(matrix), matrix.strides[0])) as plan:
        found = robust_pca(plan, plan.hold(matrix), matrix.shape[1], RobustPcaParameters(tolerance=1e-5))
    low_rank = found.separation.low_rank(found.left.whole())
    sparse = found.separation.sparse(found.held.whole())
    parts = (low_rank, sparse / 2 + 0.5, (np.abs(sparse) >= MASK_LEVEL).astype(np.float32))
    background, foreground, mask = (matrix_clip(part, frames.shape[1:]) for part in parts)
    save_plate(separation_plate(frames, background, foreground, mask), "separation.png")


def save_plate(plate: Plate, name: str) -> None:
    """Write a plate as PNG."""
    (IMAGES / name).write_bytes(plate_png(plate))
    print(f"docs/img/{name}")


def main() -> None:
    """Draw all."""
    picture()
    separation()
    for name, draw in (("train_als-spark-planted-64", training), ("scale-broadcast-10-20-40-80", scale)):
        result = newest(name)
        if result is None:
            print(f"no kept result of {name}")
        else:
            draw(result)


if __name__ == "__main__":
    main()
