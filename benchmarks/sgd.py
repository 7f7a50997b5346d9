"""Stochastic gradients on explicit ratings: plain SGD and Adam beside the baselines, ALS and a small dense network.

    python -m benchmarks.sgd [--task songs|stars|movielens|versus|all] [--plot] [--keep]

songs: four people and twelve songs, as a textbook has them: plain SGD and ALS on the same objective.

stars: the ratings of the embedded demo log (1,000 listeners, 500 tracks) at rank 10: training and held-out RMSE by
epoch.

movielens: ml-100k and ml-1m-ratings-part under FACTORLAKE_DATA by Adam (embedding 8, learning rate 0.001, a twentieth
of the ratings held out), 20 epochs and on until the validation loss turns. On the same held-out ratings: the mean, the
bias model, ALS with biases (its λ the best of a grid), and, where torch is installed, a dense network over embeddings
of the same length. Epochs and λ are chosen by those ratings too. All predictions are held within 1 and 5. --plot draws
docs/img/adam.svg.

versus: plain SGD, Adam and ALS with biases, each with the best of a few settings, on ml-1m-ratings-part and on planted
ratings of Gowalla's size: seconds until the held-out RMSE is that which all three reach. All run in the local plan on
the same threads; the clock runs while they train, and neither while ratings are packed nor while errors are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.plots import FORETOLD, OURS, THEIRS, save
from benchmarks.result import finish
from factorlake.config.loader import load_settings
from factorlake.evaluation.baselines import BiasBaseline
from factorlake.evaluation.planted import PlantedTaste
from factorlake.evaluation.song_table import song_ratings
from factorlake.kernels.hashing import hash_ids
from factorlake.models.als import train
from factorlake.models.fit import fit_als, pack_ratings
from factorlake.models.fit_sgd import fit_sgd
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.sgd import TrainedSgd
from factorlake.models.sgd_cells import chosen_for_validation
from factorlake.models.sgd_parameters import SgdParameters
from factorlake.models.trained import Snapshot
from factorlake.pipelines.demo_log import write_demo_log

CONF = Path(__file__).parents[1] / "conf" / "base" / "demo_ratings.yaml"
THREADS = 2
LOW, HIGH = 1.0, 5.0
"""Stars that all predictions are held within."""

SONG_PARAMETERS = SgdParameters(rank=5, learning_rate=0.01, regularization=0.02, epochs=1000, biases=False)
STAR_PARAMETERS = SgdParameters(
    rank=10, learning_rate=0.05, regularization=0.02, epochs=20, validation_share=0.1, tolerance=None
)
_ADAM = SgdParameters(
    optimizer="adam",
    rank=8,
    learning_rate=0.001,
    regularization=0.03,
    bias_regularization=0.02,
    batch_size=64,
    epochs=150,
    init_scale=0.05,
    scaling="minmax",
    validation_share=0.05,
    patience=5,
)
ADAM = {"ml-100k": _ADAM, "ml-1m": replace(_ADAM, regularization=0.02)}
TITLES = {"ml-100k": "ml-100k", "ml-1m": "part of ml-1m"}
ALS_GRID = (0.04, 0.06, 0.08, 0.1, 0.12)
"""λ of ALS, scaled by count."""
NETWORK_EPOCHS = 20
NETWORK_BATCH = {"ml-100k": 256, "ml-1m": 1024}
VERSUS_EPOCHS = 60
VERSUS_RANK = 16


@dataclass(frozen=True)
class Ratings:
    """Ratings with their ids as text, and as numbers from 0."""

    user_ids: list[str]
    item_ids: list[str]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, user_ids: list[str], item_ids: list[str], values: NDArray[np.float32]) -> Ratings:
        """Number the ids."""
        users, items = (pd.factorize(np.array(ids, dtype=object))[0] for ids in (user_ids, item_ids))
        return cls(user_ids, item_ids, users, items, values)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.users.max()) + 1, int(self.items.max()) + 1

    def held_out(self, parameters: SgdParameters) -> NDArray[np.bool_]:
        """Return which ratings training by these parameters holds out."""
        return chosen_for_validation(hash_ids(self.user_ids), hash_ids(self.item_ids), parameters)

    def where(self, chosen: NDArray[np.bool_]) -> tuple[list[str], list[str], NDArray[np.float32]]:
        """Return (user ids, item ids, values) of the chosen ratings."""
        places = np.flatnonzero(chosen).tolist()
        return [self.user_ids[n] for n in places], [self.item_ids[n] for n in places], self.values[chosen]


def songs() -> dict[str, Any]:
    """Train on the song table by plain SGD, and by ALS on the same objective: a ridge by count of half the λ."""
    people, titles, values = song_ratings()
    fitted = fit_sgd(people, titles, values, SONG_PARAMETERS)
    trace = fitted.model.trace
    u, i = (
        pd.Index(ids).get_indexer(pd.Index(wanted))
        for ids, wanted in ((fitted.user_ids, people), (fitted.item_ids, titles))
    )
    worst = float(np.max(np.abs(fitted.predict(u, i) - values)))
    parameters = AlsParameters(
        objective="explicit",
        rank=SONG_PARAMETERS.rank,
        regularization=fitted.model.regularization,
        nu=1.0,
        biases=False,
        epochs=200,
        tolerance=None,
    )
    als = fit_als(people, titles, values, parameters).model.trace[-1]
    return {
        "observed_loss": {str(epoch): trace[epoch].observed_loss for epoch in (0, 1, 10, 100, 1000)},
        "loss": fitted.model.kept.loss,
        "mae": fitted.model.kept.training_mae,
        "largest_error": worst,
        "als": {"loss": als.loss, "observed_loss": als.observed_loss, "regularization": parameters.regularization},
    }


def star_ratings() -> Ratings:
    """Return the accepted star ratings of the embedded demo log, of which flawed records are left out."""
    settings = load_settings([CONF], environment={})
    with tempfile.TemporaryDirectory() as folder:
        assert settings.demo is not None
        log = write_demo_log(settings.demo, Path(folder) / "log")
        days = [pd.read_csv(one, dtype=str, on_bad_lines="skip") for one in sorted(log.ratings.iterdir())]
    table = pd.concat(days, ignore_index=True)
    table["stars"] = pd.to_numeric(table["stars"], errors="coerce")
    earliest, latest = str(settings.events.earliest)[:10], str(settings.events.latest)[:10]
    table = table[table["stars"].between(LOW, HIGH) & table["rated_at"].between(earliest, latest)]
    table = table.assign(**{name: table[name].str.strip() for name in ("listener", "track")})
    table = table[table["listener"].fillna("").ne("") & table["track"].fillna("").ne("")]
    table = table.drop_duplicates(["listener", "track"], keep="last")
    return Ratings.of(table["listener"].tolist(), table["track"].tolist(), table["stars"].to_numpy(np.float32))


def stars() -> dict[str, Any]:
    """Train on the demo log's stars; tell training and held-out RMSE by epoch, the start first."""
    ratings = star_ratings()
    model = fit_sgd(ratings.user_ids, ratings.item_ids, ratings.values, STAR_PARAMETERS, THREADS).model
    return {
        "shape": list(ratings.shape),
        "ratings": len(ratings.values),
        "user_factors": list(model.user_factors.shape),
        "item_factors": list(model.item_factors.shape),
        "loss": model.kept.loss,
        "mae": model.kept.validation_mae,
        "training_rmse": [row.training_rmse for row in model.trace],
        "held_out_rmse": [row.validation_rmse for row in model.trace],
    }


def read_movielens(folder: Path, name: str) -> Ratings:
    """Return the ratings of ml-100k or of the part of ml-1m (``ml-1m``)."""
    if name == "ml-100k":
        table = pd.read_parquet(folder / "ml-100k" / "ratings.parquet", columns=["user", "item", "rating"])
    else:
        path = folder / "ml-1m-ratings-part" / "ratings.parquet"
        table = pd.read_parquet(path, columns=["user", "movie_id", "rating"])
    table.columns = pd.Index(["user", "item", "rating"])
    users, items = table["user"].astype(str).tolist(), table["item"].astype(str).tolist()
    return Ratings.of(users, items, table["rating"].to_numpy(np.float32))


def curve(model: TrainedSgd[Any]) -> dict[str, Any]:
    """Return what a training tells by epoch, the start first."""
    return {
        "training_mae": [row.training_mae for row in model.trace],
        "validation_mae": [row.validation_mae for row in model.trace],
        "validation_rmse": [row.validation_rmse for row in model.trace],
        "seconds": [row.seconds for row in model.trace],
        "epochs": model.epochs,
        "stopped": model.stopped,
        "loss": model.kept.loss,
        "kept": asdict(model.kept),
    }


def adam_curve(ratings: Ratings, parameters: SgdParameters) -> dict[str, Any]:
    """Train by Adam until the validation loss turns."""
    return curve(fit_sgd(ratings.user_ids, ratings.item_ids, ratings.values, parameters, THREADS).model)


def baselines(ratings: Ratings, parameters: SgdParameters) -> dict[str, float]:
    """Return MAE and RMSE of the mean and of the bias model, fitted on the rest, on the held-out ratings."""
    held = ratings.held_out(parameters)
    bias = BiasBaseline.fit(ratings.users[~held], ratings.items[~held], ratings.values[~held], *ratings.shape)
    told = {
        "mean": np.full(int(held.sum()), bias.mean),
        "bias": np.clip(bias.predict(ratings.users[held], ratings.items[held]), LOW, HIGH),
    }
    errors = {name: one - ratings.values[held] for name, one in told.items()}
    return {f"{name}_mae": float(np.mean(np.abs(one))) for name, one in errors.items()} | {
        f"{name}_rmse": float(np.sqrt(np.mean(one**2))) for name, one in errors.items()
    }


@dataclass(frozen=True)
class AlsCourse:
    """Held-out errors of ALS after each epoch, and the seconds of training until then."""

    rmse: list[float]
    mae: list[float]
    seconds: list[float]


def als_course(ratings: Ratings, held: NDArray[np.bool_], parameters: AlsParameters) -> AlsCourse:
    """Train by ALS on what is not held out."""
    packed = pack_ratings(*ratings.where(~held), parameters)
    users, items, values = ratings.where(held)
    u = pd.Index(packed.user_ids).get_indexer(pd.Index(users))
    i = pd.Index(packed.item_ids).get_indexer(pd.Index(items))
    rmse: list[float] = []
    mae: list[float] = []

    def look(_: int, now: Snapshot[Any]) -> float:
        # Position −1, an unknown id, finds the row of zeros at the end.
        x, y = (np.vstack([rows, np.zeros_like(rows[:1])]) for rows in (now.users.whole(), now.items.whole()))
        told = now.mean + np.einsum("na,na->n", x[u, : now.rank], y[i, : now.rank], dtype=np.float64)
        if x.shape[1] > now.rank:
            told += x[u, now.rank].astype(np.float64) + y[i, now.rank]
        errors = np.clip(told, LOW, HIGH) - values
        rmse.append(float(np.sqrt(np.mean(errors**2))))
        mae.append(float(np.mean(np.abs(errors))))
        return rmse[-1]

    with LocalPlan(packed.user_blocks, packed.item_blocks, parameters, THREADS) as plan:
        model = train(plan, parameters, validate=look, larger_is_better=False)
    of_epoch = np.zeros(len(rmse))
    for row in model.trace:
        if row.state != "final":
            of_epoch[row.epoch - 1] += row.seconds
    return AlsCourse(rmse, mae, np.cumsum(of_epoch).tolist())


def best_als(ratings: Ratings, held: NDArray[np.bool_], rank: int, epochs: int = 15) -> tuple[float, AlsCourse]:
    """Return the λ of the grid with the least held-out RMSE, and its course."""
    base = AlsParameters(objective="explicit", rank=rank, epochs=epochs, tolerance=None)
    courses = {one: als_course(ratings, held, replace(base, regularization=one)) for one in ALS_GRID}
    chosen = min(courses, key=lambda one: min(courses[one].rmse))
    return chosen, courses[chosen]


def dense_network(ratings: Ratings, held: NDArray[np.bool_], rank: int, batch: int) -> dict[str, Any] | None:
    """Train a dense network over embeddings of users and items by Adam; None without torch.

    Both embeddings, side by side, go through layers of 64 and 32 rectified units to one number, the rating between its
    least and greatest; the loss is the mean squared error.
    """
    try:
        import torch
    except ImportError:
        return None
    torch.manual_seed(7)
    torch.set_num_threads(1)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = (torch.nn.Embedding(n, rank) for n in ratings.shape)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(2 * rank, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(),
                torch.nn.Linear(32, 1),
            )  # fmt: skip

        def forward(self, users: Any, items: Any) -> Any:
            return self.layers(torch.cat([self.users(users), self.items(items)], dim=1))[:, 0]

    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    users, items = torch.from_numpy(ratings.users), torch.from_numpy(ratings.items)
    scaled = torch.from_numpy((ratings.values - np.float32(LOW)) / np.float32(HIGH - LOW))
    train_places, held_places = (torch.from_numpy(np.flatnonzero(one)) for one in (~held, held))
    training: list[float] = []
    validation: list[float] = []
    began = time.perf_counter()
    for _ in range(NETWORK_EPOCHS):
        order = train_places[torch.randperm(len(train_places))]
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            optimizer.zero_grad()
            loss = torch.mean((network(users[part], items[part]) - scaled[part]) ** 2)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for places, told in ((train_places, training), (held_places, validation)):
                errors = torch.clip(network(users[places], items[places]), 0, 1) - scaled[places]
                told.append(float(torch.mean(torch.abs(errors)).double()) * (HIGH - LOW))
    return {
        "training_mae": training,
        "validation_mae": validation,
        "mae": min(validation),
        "seconds": time.perf_counter() - began,
    }


def movielens(folder: Path, names: Iterable[str] = ("ml-100k", "ml-1m")) -> dict[str, Any]:
    """Return Adam's course on each data set beside the others'."""
    figures = {}
    for name in names:
        ratings, parameters = read_movielens(folder, name), ADAM[name]
        held = ratings.held_out(parameters)
        adam = adam_curve(ratings, parameters)
        chosen, als = best_als(ratings, held, parameters.rank)
        network = dense_network(ratings, held, parameters.rank, NETWORK_BATCH[name])
        figures[name] = {
            "ratings": len(ratings.values),
            "held_out": int(held.sum()),
            "parameters": asdict(parameters),
            "mae": adam["kept"]["validation_mae"],
            "loss": adam["loss"],
            "adam": adam,
            "baselines": baselines(ratings, parameters),
            "als": {"regularization": chosen, "mae": als.mae[int(np.argmin(als.rmse))], "validation_mae": als.mae},
            "network": network,
        }
        told = figures[name]
        print(
            f"{name}: mean {told['baselines']['mean_mae']:.4f}, bias model {told['baselines']['bias_mae']:.4f}, "
            f"ALS {told['als']['mae']:.4f} (λ {chosen}), Adam {told['mae']:.4f} after {adam['epochs']} epochs"
            + ("" if network is None else f", dense network {network['mae']:.4f}"),
            flush=True,
        )
    return figures


def gowalla_sized() -> Ratings:
    """Return planted stars of as many users, items and pairs as Gowalla's check-ins."""
    taste = PlantedTaste.make(29_858, 40_981, seed=1)
    users, items = taste.sample_pairs(1_027_370, liking=0.0, threads=THREADS)
    return Ratings.of([f"u{n}" for n in users], [f"i{n}" for n in items], taste.stars(users, items))


SGD_CHOICES = [
    SgdParameters(learning_rate=rate, regularization=ridge, bias_regularization=0.02)
    for rate in (0.01, 0.04)
    for ridge in (0.05, 0.1)
]
ADAM_CHOICES = [
    replace(_ADAM, learning_rate=rate, regularization=ridge) for rate in (0.002, 0.005) for ridge in (0.02, 0.04)
]


def best_sgd(ratings: Ratings, choices: Iterable[SgdParameters]) -> tuple[SgdParameters, dict[str, Any]]:
    """Return the parameters with the least held-out RMSE, and their course."""
    courses = []
    for one in choices:
        parameters = replace(one, rank=VERSUS_RANK, epochs=VERSUS_EPOCHS, validation_share=0.1, patience=3)
        courses.append((parameters, adam_curve(ratings, parameters)))
    return min(courses, key=lambda pair: min(pair[1]["validation_rmse"]))


def load_code() -> None:
    """Train a little with each, so that no clock runs while compiled code is loaded."""
    people, titles, values = song_ratings()
    ratings = Ratings.of(people, titles, values)
    for one in (SGD_CHOICES[0], ADAM_CHOICES[0]):
        fit_sgd(people, titles, values, replace(one, epochs=1), THREADS)
    als_course(ratings, np.arange(len(values)) == 0, AlsParameters(objective="explicit", rank=2, epochs=2))


def versus(folder: Path) -> dict[str, Any]:
    """Return seconds to equal held-out RMSE of SGD, Adam and ALS."""
    load_code()
    figures: dict[str, Any] = {}
    sources: dict[str, Callable[[], Ratings]] = {
        "ml-1m": lambda: read_movielens(folder, "ml-1m"),
        "gowalla-sized": gowalla_sized,
    }
    for name, source in sources.items():
        ratings = source()
        courses: dict[str, Any] = {}
        for optimizer, choices in (("sgd", SGD_CHOICES), ("adam", ADAM_CHOICES)):
            parameters, course = best_sgd(ratings, choices)
            courses[optimizer] = {
                "parameters": asdict(parameters),
                "rmse": course["validation_rmse"][1:],
                "mae": course["kept"]["validation_mae"],
                "seconds": np.cumsum(course["seconds"])[1:].tolist(),
            }
        held = ratings.held_out(replace(_ADAM, validation_share=0.1))
        chosen, als = best_als(ratings, held, VERSUS_RANK)
        courses["als"] = {
            "parameters": {"regularization": chosen},
            "rmse": als.rmse,
            "mae": als.mae[int(np.argmin(als.rmse))],
            "seconds": als.seconds,
        }
        target = max(min(course["rmse"]) for course in courses.values())
        print(f"{name}: {len(ratings.values):,} ratings, rank {VERSUS_RANK}, to RMSE {target:.4f}", flush=True)
        for method, course in courses.items():
            reached = int(np.flatnonzero(np.array(course["rmse"]) <= target)[0])
            course |= {"epochs_to_equal": reached + 1, "seconds_to_equal": course["seconds"][reached]}
            print(
                f"  {method:<5}{course['seconds_to_equal']:8.2f} s  {reached + 1:3d} epochs   "
                f"best RMSE {min(course['rmse']):.4f}",
                flush=True,
            )
        figures[name] = {"ratings": len(ratings.values), "rmse": target, "courses": courses}
    return figures


def plot(figures: dict[str, Any]) -> None:
    """Draw training and validation MAE by epoch beside the lines to beat, a panel for each data set."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(figures), squeeze=False)[0])
    for panel, (name, told) in zip(panels, figures.items(), strict=True):
        adam = told["adam"]
        epochs = range(len(adam["validation_mae"]))
        panel.plot(epochs, adam["training_mae"], "--", color=OURS, label="Adam, training")
        panel.plot(epochs, adam["validation_mae"], color=OURS, label="Adam, validation")
        panel.plot(adam["epochs"], told["mae"], "o", color=OURS, label="kept epoch")
        if told["network"] is not None:
            found = told["network"]["validation_mae"]
            panel.plot(range(1, len(found) + 1), found, color="#4d9221", label="dense network, validation")
        panel.axhline(told["als"]["mae"], color=THEIRS, label="ALS with biases")
        panel.axhline(told["baselines"]["bias_mae"], color=FORETOLD, label="bias model")
        panel.axhline(told["baselines"]["mean_mae"], color=FORETOLD, linestyle=":", label="mean")
        panel.set(xlabel="epoch", ylabel="mean absolute error, stars", xlim=(0, None))
        panel.set_title(
            f"{TITLES[name]}: {told['ratings']:,} ratings, {told['held_out']:,} held out", fontsize="medium"
        )
    panels[-1].legend(fontsize="small", loc="upper right", bbox_to_anchor=(1, 0.92))
    save(figure, "adam.svg")


def main() -> None:
    """Parse the arguments, run the tasks, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["songs", "stars", "movielens", "versus", "all"], default="all")
    parser.add_argument("--plot", action="store_true", help="draw docs/img/adam.svg from what movielens found")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    folder = Path(os.environ.get("FACTORLAKE_DATA", "."))
    figures: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    if given.task in ("songs", "all"):
        found = figures["songs"] = songs()
        ratios["songs_als_loss_over_sgd"] = found["als"]["loss"] / found["loss"]
        print(json.dumps(found), flush=True)
    if given.task in ("stars", "all"):
        found = figures["stars"] = stars()
        for epoch in (1, 5, 10, 15, 20):
            print(
                f"epoch {epoch:2d}  RMSE {found['training_rmse'][epoch]:.3f}, held out "
                f"{found['held_out_rmse'][epoch]:.3f}",
                flush=True,
            )
    if given.task in ("movielens", "all"):
        found = figures["movielens"] = movielens(folder)
        for name, told in found.items():
            ratios[f"{name}_adam_mae_over_bias_model"] = told["mae"] / told["baselines"]["bias_mae"]
            ratios[f"{name}_adam_mae_over_als"] = told["mae"] / told["als"]["mae"]
        if given.plot:
            plot(found)
    if given.task in ("versus", "all"):
        found = figures["versus"] = versus(folder)
        for name, told in found.items():
            seconds = {method: course["seconds_to_equal"] for method, course in told["courses"].items()}
            for method in ("sgd", "adam"):
                ratios[f"{name}_{method}_over_als_seconds"] = seconds[method] / seconds["als"]
    finish(f"sgd-{given.task}", vars(given), figures, ratios, given.keep)


if __name__ == "__main__":
    main()
