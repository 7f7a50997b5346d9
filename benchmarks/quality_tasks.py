"""The data and protocols that quality is measured by: what a model learns from, what is held out, and the figures.

Each task has two parts. `test` is the protocol of the published tables. `validation` is cut out of what `test` learns
from, in the same way as far as the data allow, and is what every setting is chosen by.

gowalla      full ranking of all items but those known, recall and NDCG at 20 (He et al., SIGIR 2020)
ml-1m-ncf    each user's last item among 99 given ones, hit rate and NDCG at 10 (He et al., WWW 2017)
ml-100k      stars, the folds u1 to u5
jester-1     stars from −10 to 10, a tenth of them held out by hash
lastfm-2k    play counts, a fifth of the pairs held out by hash, full ranking at 10 and 20
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from factorlake.evaluation.baselines import BiasBaseline, popularity_lists, popularity_order
from factorlake.evaluation.calibration import clip_to_scale
from factorlake.evaluation.ranking import ranking_metrics
from factorlake.evaluation.sampled import candidate_ranks, metrics_of_ranks
from factorlake.evaluation.splits import hash_split, last_n_out
from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.top_k import top_k
from factorlake.models.als import train
from factorlake.models.fit import PackedRatings, pack_ratings
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.threads import single_threaded_blas
from factorlake.models.trained import Snapshot, TrainedModel

Part = Literal["test", "validation"]
Figures = dict[str, float]
UNKNOWN = -1
USERS_AT_ONCE = 4096
VALIDATION_SHARE, HELD_OUT_SHARE, COUNTS_SHARE, DENSE_SHARE = 0.1, 0.1, 0.2, 0.05
CANDIDATES = 99


@dataclass(frozen=True)
class Task:
    """One split: the known pairs, packed, and the held-out ones by position (−1: an id that is not known)."""

    packed: PackedRatings
    explicit: bool
    held_users: NDArray[np.int64]
    held_items: NDArray[np.int64]
    held_values: NDArray[np.float64]
    cutoffs: tuple[int, ...] = (20,)
    """Lengths of the lists that are judged."""
    candidates: NDArray[np.int64] | None = None
    """(n held out, CANDIDATES) items that each held-out item is ranked among; None: all but the known ones."""
    scale: tuple[float, float] | None = None
    """Of the ratings: predictions stay inside."""

    def fit(
        self,
        parameters: AlsParameters,
        threads: int = 2,
        validate: Callable[[int, Snapshot[ArrayRows]], float] | None = None,
    ) -> TrainedModel[ArrayRows]:
        """Train on the known pairs."""
        with LocalPlan(self.packed.user_blocks, self.packed.item_blocks, parameters, threads) as plan:
            return train(plan, parameters, validate=validate)

    def judge(self, model: Snapshot[ArrayRows]) -> Figures:
        """Return the figures of this task's protocol."""
        if self.explicit:
            return self._errors(model)
        if self.candidates is not None:
            return self._sampled(lambda users, items: _products(model, users, items))
        rows = np.unique(self.held_users)
        return self._ranked(rows, lambda some: self._best(model, some))

    def known(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return (ptr, items) of what some users have."""
        row_ptr = np.zeros(len(self.packed.user_ids) + 1, np.int64)
        np.cumsum(np.concatenate([np.diff(block.row_ptr) for block in self.packed.user_blocks]), out=row_ptr[1:])
        items = np.concatenate([block.neighbours for block in self.packed.user_blocks])
        ptr, at = _places(row_ptr, rows)
        return ptr, items[at]

    def known_values(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the ratings behind ``known``, in the same order."""
        blocks = self.packed.user_blocks
        row_ptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(block.row_ptr) for block in blocks]))])
        values = np.concatenate([np.ones(b.n_obs, np.float32) if b.values is None else b.values for b in blocks])
        return values[_places(row_ptr, rows)[1]]

    def popularity(self) -> Figures:
        """Return the figures of the list that is the same for everybody; of ratings those of the bias model."""
        counts = np.concatenate([np.diff(block.row_ptr) for block in self.packed.item_blocks])
        if self.explicit:
            return _errors_of(self.baseline().predict(self.held_users, self.held_items), self)
        if self.candidates is not None:
            padded = np.append(counts, -1.0)
            return self._sampled(lambda _, items: padded[items])
        order = popularity_order(counts)
        longest = max(self.cutoffs)
        return self._ranked(
            np.unique(self.held_users), lambda rows: popularity_lists(order, *self.known(rows), longest)
        )

    def baseline(self) -> BiasBaseline:
        """Return mean and biases of the known ratings."""
        blocks = self.packed.user_blocks
        users = np.concatenate([np.repeat(np.arange(b.n_rows) + b.first_row, np.diff(b.row_ptr)) for b in blocks])
        items = np.concatenate([b.neighbours for b in blocks])
        values = np.concatenate([np.ones(b.n_obs, np.float32) if b.values is None else b.values for b in blocks])
        return BiasBaseline.fit(users, items, values, len(self.packed.user_ids), len(self.packed.item_ids))

    def ranked_lists(self, lists: Callable[[NDArray[np.int64]], NDArray[np.integer]]) -> Figures:
        """Return the figures of anyone's lists: positions of items for some users, without those known."""
        return self._ranked(np.unique(self.held_users), lists)

    def _best(self, model: Snapshot[ArrayRows], rows: NDArray[np.int64]) -> NDArray[np.integer]:
        ptr, items = self.known(rows)
        ties = np.arange(len(self.packed.item_ids))
        with single_threaded_blas():
            users = np.ascontiguousarray(model.user_factors[rows])
            return top_k(users, model.item_factors, max(self.cutoffs), ptr, items, ties)[0]

    def _ranked(self, rows: NDArray[np.int64], lists: Callable[[NDArray[np.int64]], NDArray[np.integer]]) -> Figures:
        place = np.searchsorted(rows, self.held_users)
        order = np.lexsort((self.held_items, place))
        # An item that nobody had before counts as truth that no list can hold: each gets a number of its own.
        items = np.where(
            self.held_items == UNKNOWN, len(self.packed.item_ids) + np.arange(len(place)), self.held_items
        )[order]
        ptr = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(rows)))])
        found: dict[str, list[NDArray[np.float64]]] = {}
        for first in range(0, len(rows), USERS_AT_ONCE):
            last = min(first + USERS_AT_ONCE, len(rows))
            listed = lists(rows[first:last])
            truth = ptr[first : last + 1] - ptr[first], items[ptr[first] : ptr[last]]
            for k in self.cutoffs:
                for name, values in ranking_metrics(listed, *truth, k).items():
                    found.setdefault(name.replace("hit@", "hr@"), []).append(values)
        return {name: float(np.concatenate(values).mean()) for name, values in found.items()}

    def _sampled(self, score: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]) -> Figures:
        assert self.candidates is not None
        items = np.concatenate([self.held_items[:, None], self.candidates], axis=1)
        users = np.repeat(self.held_users, items.shape[1])
        scores = score(users, items.ravel())
        ptr, own = np.arange(len(items) + 1) * items.shape[1], np.arange(len(items) + 1)
        # Ids that are not known share −1; within a row each candidate needs a number of its own.
        numbers = np.where(items == UNKNOWN, len(self.packed.item_ids) + np.arange(items.shape[1]), items)
        ranks = candidate_ranks(ptr, numbers.ravel(), scores, own, numbers[:, 0])
        told: Figures = {}
        for k in self.cutoffs:
            metrics = metrics_of_ranks(own, ranks, k)
            told |= {name.replace("hit@", "hr@"): float(values.mean()) for name, values in metrics.items()}
        return told

    def _errors(self, model: Snapshot[ArrayRows]) -> Figures:
        predicted = model.mean + _products(model, self.held_users, self.held_items)
        for biases, places in ((model.user_biases, self.held_users), (model.item_biases, self.held_items)):
            if biases is not None:
                predicted += np.where(places == UNKNOWN, 0.0, biases[places])
        return _errors_of(predicted, self)


def _places(row_ptr: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.diff(row_ptr)[rows]
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    return ptr, np.repeat(row_ptr[rows] - ptr[:-1], lengths) + np.arange(ptr[-1])


def _errors_of(predicted: NDArray[np.float64], task: Task) -> Figures:
    assert task.scale is not None
    errors = clip_to_scale(predicted, *task.scale) - task.held_values
    return {"rmse": float(np.sqrt(np.mean(errors**2))), "mae": float(np.mean(np.abs(errors)))}


def _products(model: Snapshot[ArrayRows], users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return x·y of pairs; 0 where an id is not known."""
    scores = np.empty(len(users))
    for first in range(0, len(users), 1 << 16):
        part = slice(first, first + (1 << 16))
        x, y = model.user_factors[users[part]], model.item_factors[items[part]]
        scores[part] = np.einsum("na,na->n", x, y, dtype=np.float64)
    return np.where((users == UNKNOWN) | (items == UNKNOWN), 0.0, scores)


def make_task(known: pd.DataFrame, held: pd.DataFrame, explicit: bool, **more: object) -> Task:
    """Return the task of some known and held-out (user, item[, value]); users that are not known are left out where
    lists are judged."""
    users, items = known["user"].astype(str).tolist(), known["item"].astype(str).tolist()
    values = known["value"].to_numpy(np.float32) if "value" in known else None
    packed = pack_ratings(users, items, values, AlsParameters(objective="explicit" if explicit else "implicit"))
    user_at, item_at = pd.Index(packed.user_ids), pd.Index(packed.item_ids)
    candidates = more.pop("candidates", None)
    places = user_at.get_indexer(pd.Index(held["user"].astype(str)))
    asked = np.ones(len(held), bool) if explicit else places != UNKNOWN
    if isinstance(candidates, np.ndarray):
        shape = candidates.shape
        more["candidates"] = item_at.get_indexer(pd.Index(candidates.ravel().astype(str))).reshape(shape)[asked]
    return Task(
        packed,
        explicit,
        places[asked].astype(np.int64),
        item_at.get_indexer(pd.Index(held["item"].astype(str)))[asked].astype(np.int64),
        (held["value"].to_numpy(np.float64) if "value" in held else np.ones(len(held)))[asked],
        **more,  # type: ignore[arg-type]
    )


def _by_hash(pairs: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split by a hash of each pair."""
    codes = [pd.factorize(pairs[side]) for side in ("user", "item")]
    hashes = [hash_ids([str(one) for one in names])[code] for code, names in codes]
    held = hash_split(hashes[0], hashes[1], share, seed)
    return pairs[~held], pairs[held]


def _of_each_user(pairs: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off a share of each user's pairs, at least one, drawn by a seed; users count alike in the figures, so
    light ones must be held out as often as heavy ones."""
    rng = np.random.default_rng(seed)
    drawn = pairs.sort_values(["user", "item"])
    drawn = drawn.assign(draw=rng.random(len(drawn))).sort_values(["user", "draw"], kind="stable")
    place = drawn.groupby("user").cumcount()
    n = drawn.groupby("user")["item"].transform("size")
    held = (place < np.maximum(1, np.round(share * n))) & (n > 1)
    return drawn[~held].drop(columns="draw"), drawn[held].drop(columns="draw")


def gowalla(folder: Path, part: Part) -> list[Task]:
    """Return the split of NGCF and LightGCN."""
    known, held = (pd.read_parquet(folder / f"{name}.parquet")[["user", "item"]] for name in ("train", "test"))
    if part == "validation":
        known, held = _of_each_user(known, VALIDATION_SHARE, seed=1)
    return [make_task(known, held, explicit=False)]


def ml_1m_ncf(folder: Path, part: Part) -> list[Task]:
    """Return the last item of each user and 99 that the user does not have: those of the published file, or drawn."""
    known = pd.read_parquet(folder / "train.parquet", columns=["user", "item", "pos"])
    if part == "test":
        held = pd.read_parquet(folder / "test.parquet", columns=["user", "item"]).sort_values("user")
        negative = pd.read_parquet(folder / "test_negative.parquet").sort_values("user", kind="stable")
        candidates = negative["item"].to_numpy().reshape(len(held), CANDIDATES)
    else:
        own = known
        last = last_n_out(known["user"].to_numpy(), known["item"].to_numpy(), known["pos"].to_numpy(), 1)
        known, held = own[~last], own[last].sort_values("user")
        candidates = _unknown_items(own, held["user"].to_numpy(), np.random.default_rng(1))
    return [make_task(known[["user", "item"]], held, explicit=False, cutoffs=(10,), candidates=candidates)]


def _unknown_items(pairs: pd.DataFrame, users: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    n_items = int(pairs["item"].max()) + 1
    has = np.zeros((int(pairs["user"].max()) + 1, n_items), bool)
    has[pairs["user"], pairs["item"]] = True
    return np.stack([rng.choice(np.flatnonzero(~has[user]), CANDIDATES, replace=False) for user in users])


def ml_100k(folder: Path, part: Part) -> list[Task]:
    """Return the five folds; the figures are means over them."""
    ratings = pd.read_parquet(folder / "ratings.parquet").rename(columns={"rating": "value"})
    tasks = []
    for fold in range(1, 6):
        known, held = ratings[ratings["fold"] != fold], ratings[ratings["fold"] == fold]
        if part == "validation":
            known, held = _by_hash(known, VALIDATION_SHARE, seed=fold)
        tasks.append(make_task(known, held, explicit=True, scale=(1.0, 5.0)))
    return tasks


def jester_1(folder: Path, part: Part) -> list[Task]:
    """Return a tenth of the ratings of jokes, by hash."""
    ratings = pd.read_parquet(folder / "ratings.parquet").rename(columns={"rating": "value"})
    known, held = _by_hash(ratings, HELD_OUT_SHARE, seed=1)
    if part == "validation":
        known, held = _by_hash(known, VALIDATION_SHARE, seed=2)
    return [make_task(known, held, explicit=True, scale=(-10.0, 10.0))]


def lastfm_2k(folder: Path, part: Part) -> list[Task]:
    """Return a fifth of the (listener, artist) pairs, by hash; what is known has its play counts."""
    plays = pd.read_parquet(folder / "user_artists.parquet").rename(columns={"weight": "value"})
    known, held = _by_hash(plays, COUNTS_SHARE, seed=1)
    splits = [(known, held)]
    if part == "validation":
        # Of so few listeners one part says little, and with a fifth less to learn from stronger ridges are best.
        splits = [_by_hash(known, DENSE_SHARE, seed) for seed in (2, 3, 4, 5)]
    return [
        make_task(
            learnt.assign(value=np.log1p(learnt["value"])), asked[["user", "item"]], explicit=False, cutoffs=(10, 20)
        )
        for learnt, asked in splits
    ]


TASKS: dict[str, Callable[[Path, Part], list[Task]]] = {
    "gowalla": gowalla,
    "ml-1m-ncf": ml_1m_ncf,
    "ml-100k": ml_100k,
    "jester-1": jester_1,
    "lastfm-2k": lastfm_2k,
}


def mean_figures(told: Sequence[Figures]) -> Figures:
    """Return the mean of each figure."""
    return {name: float(np.mean([one[name] for one in told])) for name in told[0]}
