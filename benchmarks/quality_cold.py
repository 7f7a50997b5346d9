"""Items that nobody has met, ranked by their genres: a fifth of the items is hidden from training, by hash, each once.

Each user's hidden items are ranked among all hidden ones. Beside the model stand lists by popularity of genre alone: an
item's score is the sum over its genres of the mean number of ratings of a known item of that genre, or of all ratings
of the genre, and the same weighed by the share of the user's own items that are of the genre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality_tasks import Figures, Part, mean_figures
from factorlake.evaluation.ranking import ranking_metrics
from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.top_k import top_k
from factorlake.models.als import train
from factorlake.models.features import Vocabulary
from factorlake.models.fit import pack_ratings
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.prior import Features, prior_rows
from factorlake.models.threads import single_threaded_blas

FOLDS, K = 5, 10
SETTINGS = AlsParameters(
    rank=32, regularization=0.003, alpha0=1.0, epochs=6, init_scale=0.1, relaxation=1.0, tolerance=None
)
"""Chosen on the validation part."""


def cold_figures(folder: Path, part: Part, seeds: Sequence[int], parameters: AlsParameters) -> dict[str, Any]:
    """Return the figures of hidden items, means over folds and seeds.

    In the validation part a fifth of the items that are known in a fold is hidden from training in place of the fold.
    """
    ratings = pd.read_parquet(folder / "ratings.parquet")[["user", "item"]].astype(str)
    items = pd.read_parquet(folder / "items.parquet")
    genres = [name for name in items if items[name].isin([0, 1]).all() and name not in ("item", "unknown")]
    has = items[genres].to_numpy(np.float64)
    ids = items["item"].astype(str).tolist()
    table = pd.DataFrame(has, index=ids)
    fold_of = pd.Series(_fold(ids, 1), index=ids)
    each: dict[str, list[Figures]] = {}
    for fold in range(FOLDS):
        visible = ratings
        hidden = fold_of == fold
        if part == "validation":
            visible = ratings[~ratings["item"].map(hidden)]
            hidden = pd.Series(_fold(ids, 2) == 0, index=ids) & (fold_of != fold)
        cold = visible["item"].map(hidden)
        known, held = visible[~cold], visible[cold]
        asked = held[held["user"].isin(known["user"])]
        for name, told in _fold_figures(known, asked, table, table.index[hidden].tolist(), seeds, parameters).items():
            each.setdefault(name, []).append(told)
    return {name: mean_figures(told) for name, told in each.items()}


def _fold(ids: list[str], seed: int) -> NDArray[np.int64]:
    return hash_ids([f"{seed}:{one}" for one in ids]) % FOLDS


def _fold_figures(
    known: pd.DataFrame,
    held: pd.DataFrame,
    table: pd.DataFrame,
    hidden: list[str],
    seeds: Sequence[int],
    parameters: AlsParameters,
) -> dict[str, Figures]:
    packed = pack_ratings(known["user"].tolist(), known["item"].tolist(), None, parameters)
    has, new = table.loc[packed.item_ids].to_numpy(), table.loc[hidden].to_numpy()
    counts = np.concatenate([np.diff(block.row_ptr) for block in packed.item_blocks]).astype(np.float64)
    users = np.sort(pd.Index(packed.user_ids).get_indexer(pd.Index(held["user"].unique())))
    truth = _truth(held, packed.user_ids, users, hidden)
    of_genre = has.T @ counts
    per_item = of_genre / np.maximum(has.sum(axis=0), 1)
    own = _share_of_genres(packed, has)[users]
    lists = {
        "genre_popularity": np.broadcast_to(new @ per_item, (len(users), len(hidden))),
        "genre_popularity_total": np.broadcast_to(new @ of_genre, (len(users), len(hidden))),
        "own_genres": (own * per_item) @ new.T,
        "random": np.random.default_rng(1).random((len(users), len(hidden))),
    }
    told = {name: _judge(scores, truth) for name, scores in lists.items()}
    vocabulary = Vocabulary(("genre",), (tuple(str(name) for name in table.columns),), ((),))
    with LocalPlan(packed.user_blocks, packed.item_blocks, parameters, 2) as plan:
        rows = plan.hold("item", vocabulary.rows(_texts(has)))
        models = []
        for seed in seeds:
            model = train(plan, replace(parameters, seed=seed), features=Features(item=rows))
            assert model.item_feature_weights is not None
            placed = prior_rows(vocabulary.rows(_texts(new)), model.item_feature_weights)
            models.append(_judge(model.user_factors[users] @ placed.T, truth))
    return {"features": mean_figures(models), **told}


def _texts(has: NDArray[np.float64]) -> list[list[str | None]]:
    return [["|".join(str(place) for place in np.flatnonzero(row))] for row in has]


def _share_of_genres(packed: Any, has: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = [
        np.add.reduceat(has[block.neighbours], block.row_ptr[:-1], axis=0) / np.diff(block.row_ptr)[:, None]
        for block in packed.user_blocks
        if block.n_rows
    ]
    return np.concatenate(shares)


def _truth(
    held: pd.DataFrame, user_ids: list[str], users: NDArray[np.int64], hidden: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row = np.searchsorted(users, pd.Index(user_ids).get_indexer(pd.Index(held["user"])))
    item = pd.Index(hidden).get_indexer(pd.Index(held["item"]))
    order = np.lexsort((item, row))
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(users)))]), item[order].astype(np.int64)


def _judge(scores: NDArray[np.floating], truth: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Figures:
    """Return the metrics of the K best hidden items of each user."""
    n_users, n_items = scores.shape
    with single_threaded_blas():
        # One factor of 1 for each item: the scores are the products.
        best = top_k(
            np.ascontiguousarray(scores, np.float32),
            np.eye(n_items, dtype=np.float32),
            K,
            np.zeros(n_users + 1, np.int64),
            np.zeros(0, np.int32),
            np.arange(n_items),
        )[0]
    found = ranking_metrics(best, *truth, K)
    return {name.replace("hit@", "hr@"): float(values.mean()) for name, values in found.items()}
