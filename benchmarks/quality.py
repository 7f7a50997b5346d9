"""Quality beside the best published figures: full ranking, sampled ranking, stars, counts, and planted tastes.

    python -m benchmarks.quality --data gowalla

``--data`` is a folder of FACTORLAKE_DATA, or `embedded`. Settings are those of SETTINGS, which were chosen by
``--part validation``, a part of the training data; the test part takes no part in any choice. ``--set name=value``
tries others, and ``--tune 40`` forgets SETTINGS and lets the search find its own on the validation part, started from
the defaults. Figures are means over seeds, which decide the initial factors.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmarks.quality_cold import SETTINGS as COLD_SETTINGS
from benchmarks.quality_cold import cold_figures
from benchmarks.quality_embedded import embedded_figures
from benchmarks.quality_peers import peer_figures
from benchmarks.quality_tasks import TASKS, Figures, Task, mean_figures
from benchmarks.result import finish
from factorlake.models.parameters import AlsParameters

SETTINGS: dict[str, dict[str, AlsParameters]] = {
    "gowalla": {
        "rank 1024": AlsParameters(
            rank=1024,
            regularization=0.003,
            alpha0=0.02,
            epochs=6,
            init_scale=0.1,
            relaxation=1.0,
            tolerance=None,
        ),
        "rank 64": AlsParameters(
            rank=64, regularization=0.05, kappa=0.001, alpha0=0.015, epochs=3, init_scale=0.1, tolerance=None
        ),
    },
    "ml-1m-ncf": {
        "rank 192": AlsParameters(rank=192, regularization=0.007, alpha0=0.3, epochs=12, init_scale=0.1, tolerance=None)
    },
    "ml-100k": {
        "rank 64": AlsParameters(
            objective="explicit",
            rank=64,
            regularization=1.3,
            nu=0.5,
            bias_regularization=2.0,
            epochs=8,
            init_scale=0.1,
            solver="exact",
            tolerance=None,
        )
    },
    "jester-1": {
        "rank 32": AlsParameters(
            objective="explicit",
            rank=32,
            regularization=0.3,
            nu=1.0,
            bias_regularization=2.0,
            epochs=10,
            tolerance=None,
        )
    },
    "lastfm-2k": {
        "rank 64": AlsParameters(
            rank=64,
            regularization=0.35,
            alpha0=1.0,
            alpha=0.8,
            epochs=10,
            init_scale=0.1,
            relaxation=1.0,
            tolerance=None,
        ),
    },
    "embedded": {
        "rank 11": AlsParameters(
            rank=11,
            regularization=0.05,
            nu=0.87,
            kappa=0.3,
            alpha0=0.215,
            epochs=16,
            relaxation=1.0,
            tolerance=None,
        )
    },
}
"""Chosen on the validation part."""


def changed(parameters: AlsParameters, settings: Sequence[str]) -> AlsParameters:
    """Return parameters with some numbers set: name=value."""
    kinds = {field.name: type(field.default) for field in fields(AlsParameters)}
    update: dict[str, Any] = {}
    for one in settings:
        name, _, text = one.partition("=")
        kind = kinds[name]
        if text in ("none", "true", "false"):
            update[name] = {"none": None, "true": True, "false": False}[text]
        else:
            update[name] = int(text) if kind is int else text if kind is str else float(text)
    return replace(parameters, **update)


def measured(tasks: Sequence[Task], parameters: AlsParameters, seeds: Sequence[int]) -> tuple[Figures, dict[str, Any]]:
    """Return the mean figures over seeds (and folds), and what each seed gave."""
    each = {
        seed: mean_figures([task.judge(task.fit(replace(parameters, seed=seed))) for task in tasks]) for seed in seeds
    }
    told = mean_figures(list(each.values()))
    return told, {"each": each, "settings": _told(parameters)}


def course(tasks: Sequence[Task], parameters: AlsParameters, seed: int) -> dict[int, Figures]:
    """Return the figures after each epoch, means over folds, without the exact half step that ends training."""
    epochs: dict[int, list[Figures]] = {}
    for task in tasks:

        def note(epoch: int, model: Any, task: Task = task) -> float:
            epochs.setdefault(epoch, []).append(task.judge(model))
            return float(epoch)

        task.fit(replace(parameters, seed=seed), validate=note)
    return {epoch: mean_figures(told) for epoch, told in epochs.items()}


def _told(parameters: AlsParameters) -> dict[str, Any]:
    plain = AlsParameters()
    return {
        field.name: getattr(parameters, field.name)
        for field in fields(AlsParameters)
        if field.name in ("rank", "regularization", "alpha0", "epochs")
        or getattr(parameters, field.name) != getattr(plain, field.name)
    }


def figures_of(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the figures and ratios of one data set."""
    tasks = TASKS[arguments.data](arguments.folder / arguments.data, arguments.part)
    seeds = list(range(1, arguments.seeds + 1))
    settings = dict(SETTINGS[arguments.data])
    if arguments.only:
        settings = {arguments.only: settings[arguments.only]}
    figures: dict[str, Any] = {"part": arguments.part, "seeds": seeds}
    baseline = mean_figures([task.popularity() for task in tasks])
    explicit = tasks[0].explicit
    figures["biases" if explicit else "popularity"] = baseline
    _print("bias model" if explicit else "popularity", baseline)
    if arguments.tune:
        from benchmarks.quality_search import searched

        found, figures["search"] = searched(arguments, tasks[0])
        settings = {"tuned": found}
    for number, (name, parameters) in enumerate(settings.items()):
        parameters = changed(parameters, arguments.set)
        if arguments.course:
            for epoch, told in course(tasks, parameters, seeds[0]).items():
                _print(f"{name}, epoch {epoch}", told)
        told, more = measured(tasks, parameters, seeds)
        figures[name] = {**told, **more}
        if not number:
            figures |= told
        _print(name, told)
    if explicit:
        figures["baseline_mae"] = baseline["mae"]
    peers = peer_figures(arguments, tasks)
    for name, told in peers.items():
        figures[name] = told
        _print(name, told)
    ratios = {}
    if explicit:
        ratios["mae_over_baseline"] = figures["mae"] / baseline["mae"]
    return figures, ratios


def _print(name: str, told: dict[str, Any]) -> None:
    shown = ("hr@10", "ndcg@10", "recall@20", "ndcg@20", "recall_min@20", "rmse", "mae")
    print(f"  {name:<28}" + "  ".join(f"{key} {told[key]:.4f}" for key in shown if key in told), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one data set and print one JSON object."""
    parser = argparse.ArgumentParser(description="Quality beside the best published figures.")
    parser.add_argument("--data", choices=[*SETTINGS], required=True)
    parser.add_argument("--folder", type=Path, default=os.environ.get("FACTORLAKE_DATA"), help="where the data lie")
    parser.add_argument("--part", choices=["test", "validation"], default="test")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1")
    parser.add_argument("--only", help="one of the settings by name")
    parser.add_argument("--set", action="append", default=[], help="name=value of the parameters; repeatable")
    parser.add_argument("--course", action="store_true", help="also print the figures after each epoch")
    parser.add_argument("--tune", type=int, help="trials of a search from the defaults, instead of the kept settings")
    parser.add_argument("--max-rank", type=int, default=1024, help="of the search")
    parser.add_argument("--cold", action="store_true", help="ml-100k: items that nobody has met, by their genres")
    parser.add_argument("--listeners", type=int, default=10_000, help="of the embedded log; the demo has 1,000")
    parser.add_argument(
        "--peers", default="", help="also, where they fit: item_knn, pyspark_ml (its best of 20 points)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args(arguments)
    print(f"{given.data}, {given.part} part, mean of {given.seeds} seeds", flush=True)
    if given.cold:
        if given.data != "ml-100k" or given.folder is None:
            parser.error("--cold takes the genres of --data ml-100k, in the folder that FACTORLAKE_DATA names")
        seeds = range(1, given.seeds + 1)
        told = cold_figures(Path(given.folder) / given.data, given.part, seeds, changed(COLD_SETTINGS, given.set))
        for name, one in told.items():
            _print(name, one)
        best = max(one["ndcg@10"] for name, one in told.items() if name != "features")
        figures, ratios = {**told, **told["features"]}, {"ndcg_over_best_genre": told["features"]["ndcg@10"] / best}
    elif given.data == "embedded":
        parameters = changed(SETTINGS["embedded"]["rank 11"], given.set)
        figures, ratios = embedded_figures(given, parameters, range(1, given.seeds + 1))
        for name in ("popularity", "planted", "oracle", "family"):
            _print(name, figures[name])
        _print("rank 11", figures)
    elif given.folder is None:
        parser.error("FACTORLAKE_DATA names no folder: set it, or give --folder")
    else:
        given.folder = Path(given.folder)
        figures, ratios = figures_of(given)
    settings = {key: value for key, value in vars(given).items() if key not in ("keep", "folder")}
    name = f"quality-{given.data}" + ("-tuned" if given.tune else "") + ("-cold" if given.cold else "")
    if given.data == "embedded":
        name += f"-{given.listeners}"
    finish(name, settings, figures, ratios, given.keep)


if __name__ == "__main__":
    main()
