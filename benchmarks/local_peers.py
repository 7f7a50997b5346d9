"""Training in the plan `local` beside implicit and irspack: seconds until our model is as good as the peer's last.

    python -m benchmarks.train_als --plan local --peers irspack,implicit --data planted --rank 64

Two threads each, the same pairs, the same objective. Compiled code is loaded beforehand, ours by training on a few rows
(`loading_seconds`). Each system trains its epochs with only training timed; after every epoch the objective (in
float64) and the held-out NDCG@10 of its factors are taken, the same way for all. Our time is that of the first epoch
after which the objective is at most what the peer ends with and NDCG@10 not below the peer's by more than its standard
error over users, which is about what another seed of the same system changes.

irspack minimises modern iALS: c = 1, t = 1, unobserved weight α0, ridge λ(n + α0·n_other)^ν. implicit minimises
Hu-Koren-Volinsky with confidence α of every pair: ours with c = α − 1, t = α/(α − 1), α0 = 1, ν = 0.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benchmarks.result import finish
from factorlake.evaluation.planted import PlantedTaste
from factorlake.evaluation.ranking import ranking_metrics
from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.top_k import top_k
from factorlake.models.als import train
from factorlake.models.blocks import pack_positions
from factorlake.models.local_plan import LocalPlan
from factorlake.models.objective import objective_value
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.threads import single_threaded_blas
from factorlake.models.trained import Snapshot, TraceRow
from factorlake.types import FloatMatrix, RatingBlock

JUDGED_USERS = 5_000
HELD_OUT = 0.05
ROUNDING = 1e-6
"""Objectives of float32 factors that differ by less are equal."""

Factors = tuple[FloatMatrix, FloatMatrix]
Blocks = tuple[list[RatingBlock], list[RatingBlock]]


@dataclass(frozen=True)
class Task:
    """Pairs to train on and to judge by; rows in the order of the ids' hashes."""

    train: csr_matrix
    judged: NDArray[np.int64]
    truth_ptr: NDArray[np.int64]
    truth_items: NDArray[np.int32]
    hashes: tuple[NDArray[np.int64], NDArray[np.int64]]

    def ndcg(self, factors: Factors) -> tuple[float, float]:
        """Return the mean NDCG@10 of the judged users over all items they have not in training, and its standard
        error."""
        seen = self.train[self.judged]
        users, items = (np.ascontiguousarray(side, dtype=np.float32) for side in factors)
        with single_threaded_blas():
            lists, _ = top_k(
                users[self.judged], items, 10, seen.indptr.astype(np.int64), seen.indices, np.arange(len(items))
            )
        each = ranking_metrics(lists, self.truth_ptr, self.truth_items, 10)["ndcg@10"]
        return float(each.mean()), float(each.std() / np.sqrt(len(each)))


def planted(users: int, items: int, pairs: int, cache: Path | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return planted pairs (user, item); read from ``cache`` where they lie there."""
    file = None if cache is None else cache / f"planted-{users}-{items}-{pairs}.npy"
    if file is not None and file.exists():
        both = np.load(file)
        return both[0], both[1]
    u, i = PlantedTaste.make(users, items, seed=1).sample_pairs(pairs, threads=2)
    both = np.stack([np.asarray(u, np.int32), np.asarray(i, np.int32)])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, both)
    return both[0], both[1]


def read_pairs(
    data: str, sizes: tuple[int, int, int], cache: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return (user, item, held out?) of every pair of planted, gowalla or ml-1m-ncf."""
    if data == "planted":
        users, items = planted(*sizes, cache)
        return users.astype(np.int64), items.astype(np.int64), np.random.default_rng(3).random(len(users)) < HELD_OUT
    folder = Path(os.environ["FACTORLAKE_DATA"]) / data
    parts = [pq.read_table(folder / f"{name}.parquet", columns=["user", "item"]) for name in ("train", "test")]
    u, i = (np.concatenate([part[column].to_numpy() for part in parts]).astype(np.int64) for column in ("user", "item"))
    return u, i, np.arange(len(u)) >= len(parts[0])


def make_task(data: str, sizes: tuple[int, int, int], cache: Path | None) -> Task:
    """Return the training pairs, and up to JUDGED_USERS users with what is held out of them."""
    u, i, held = read_pairs(data, sizes, cache)
    orders, hashes = [], []
    for positions in (u, i):
        own = hash_ids(np.arange(positions.max() + 1).astype(str))
        order = np.argsort(own, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        orders.append(place)
        hashes.append(own[order])
    u, i = orders[0][u], orders[1][i]
    shape = (len(hashes[0]), len(hashes[1]))
    seen = csr_matrix((np.ones((~held).sum(), np.float32), (u[~held], i[~held])), shape=shape)
    truth = csr_matrix((np.ones(held.sum(), np.float32), (u[held], i[held])), shape=shape)
    able = np.flatnonzero((np.diff(truth.indptr) > 0) & (np.diff(seen.indptr) > 0))
    judged = np.sort(np.random.default_rng(4).permutation(able)[:JUDGED_USERS])
    truth = truth[judged]
    return Task(seen, judged, truth.indptr.astype(np.int64), truth.indices, (hashes[0], hashes[1]))


@dataclass
class Course:
    """One system's training: seconds, objective and NDCG@10 after each epoch."""

    seconds: list[float]
    objective: list[float]
    ndcg: list[tuple[float, float]]
    """Mean and standard error over users."""
    seconds_around: float
    """What training needs beside its epochs: packing, and our last exact half step."""

    def until_as_good_as(self, peer: Course) -> float | None:
        """Return the seconds of the first epoch that is as good as the peer's last, or None."""
        least = peer.ndcg[-1][0] - peer.ndcg[-1][1]
        for seconds, objective, (ndcg, _) in zip(self.seconds, self.objective, self.ndcg, strict=True):
            if objective <= peer.objective[-1] * (1 + ROUNDING) and ndcg >= least:
                return seconds
        return None


def load_kernels(parameters: AlsParameters) -> float:
    """Train on a few rows, which loads the compiled kernels; return the seconds that took."""
    began = time.perf_counter()
    positions, hashes = np.arange(9, dtype=np.int32), np.sort(hash_ids(np.arange(9).astype(str)))
    blocks = pack_positions(positions, positions, None, hashes, hashes)
    with LocalPlan(blocks[0], blocks[1], parameters) as plan:
        train(plan, replace(parameters, epochs=1))
    return time.perf_counter() - began


def ours(task: Task, parameters: AlsParameters, value: Callable[[Factors], float], blocks: Blocks) -> Course:
    """Train in the plan local on two threads."""
    began = time.perf_counter()
    plan = LocalPlan(blocks[0], blocks[1], parameters, threads=2)
    course = Course([], [], [], time.perf_counter() - began)
    spent = {"epochs": 0.0}

    def look(_: int, now: Snapshot[ArrayRows]) -> float:
        factors = (now.user_factors, now.item_factors)
        course.objective.append(value(factors))
        course.ndcg.append(task.ndcg(factors))
        return course.ndcg[-1][0]

    def count(row: TraceRow) -> None:
        if row.state == "final":
            course.seconds_around += row.seconds
            return
        spent["epochs"] += row.seconds
        if row.side == "item":
            course.seconds.append(spent["epochs"])

    with plan:
        train(plan, parameters, on_half_step=count, validate=look)
    return course


def irspack(task: Task, given: Any, solver: str, value: Any) -> Course:
    """Train irspack's iALS with one of its solvers."""
    from irspack.recommenders.ials import IALSTrainer, str_to_loss_type, str_to_solver_type

    def make() -> Any:
        return IALSTrainer(
            task.train, given.rank, given.alpha0, given.regularization, 1.0, 0.1, str_to_solver_type(solver), 3,
            min(64, given.rank), str_to_loss_type("IALSPP"), 42, 2, 5, 7,
        )  # fmt: skip

    def factors(model: Any) -> Factors:
        return model.core_trainer.user, model.core_trainer.item

    began = time.perf_counter()
    model = make()
    course = Course([], [], [], time.perf_counter() - began)
    spent = 0.0
    for _ in range(given.epochs):
        began = time.perf_counter()
        model.run_epoch()
        spent += time.perf_counter() - began
        course.seconds.append(spent)
        course.objective.append(value(factors(model)))
        course.ndcg.append(task.ndcg(factors(model)))
    return course


def implicit(task: Task, given: Any, value: Any) -> Course:
    """Train implicit's ALS by conjugate gradients; its callback tells the seconds of each epoch."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=given.rank, regularization=given.hkv_regularization, alpha=given.alpha + 1, iterations=given.epochs,
        num_threads=2, random_state=42,
    )  # fmt: skip
    course = Course([], [], [], 0.0)

    def look(_: int, seconds: float, *rest: Any) -> None:
        factors = (model.user_factors, model.item_factors)
        course.seconds.append(seconds + (course.seconds[-1] if course.seconds else 0.0))
        course.objective.append(value(factors))
        course.ndcg.append(task.ndcg(factors))

    model.fit(task.train, show_progress=False, callback=look)
    return course


def blocks_of(task: Task) -> tuple[Blocks, float]:
    """Return the training pairs as blocks both ways, and the seconds that packing took."""
    pairs = task.train.tocoo()
    began = time.perf_counter()
    blocks = pack_positions(pairs.row, pairs.col, None, *task.hashes)
    return blocks, time.perf_counter() - began


def compare(given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run ours and the peers of ``given.peers``; return figures and ratios (above 1: we are faster)."""
    task = make_task(given.data, (given.users, given.items, given.pairs), given.cache)
    blocks, packing = blocks_of(task)
    pairs = task.train
    print(f"{pairs.nnz:,} pairs of {task.train.shape[0]:,} users and {task.train.shape[1]:,} items", flush=True)
    figures: dict[str, Any] = {"pairs": pairs.nnz, "packing_seconds": packing, "irspack": {}}
    ratios: dict[str, Any] = {}
    shared = AlsParameters(
        rank=given.rank,
        epochs=2 * given.epochs,
        tolerance=None,
        solver=given.solver,
        init_scale=given.init_scale,
        relaxation=given.relaxation,
    )
    wanted = given.peers.split(",")
    parameters = replace(shared, regularization=given.regularization, nu=1.0, alpha0=given.alpha0)
    value = _objective(blocks, parameters)
    figures["loading_seconds"] = load_kernels(parameters)
    own = ours(task, parameters, value, blocks)
    figures["factorlake_modern"] = told_course("factorlake, modern objective", own)
    if "irspack" in wanted:
        for solver in given.irspack_solvers.split(","):
            course = irspack(task, given, solver, value)
            told = told_course(f"irspack {solver}", course)
            told["ratio"] = _ratio(course, own)
            figures["irspack"][solver] = told
        known = [told["ratio"] for told in figures["irspack"].values()]
        ratios["irspack"] = None if None in known else min(known)
    if "implicit" in wanted:
        parameters = replace(shared, regularization=given.hkv_regularization, nu=0.0, alpha0=1.0, alpha=given.alpha)
        value = _objective(blocks, parameters)
        own = ours(task, parameters, value, blocks)
        figures["factorlake_hkv"] = told_course("factorlake, Hu-Koren-Volinsky", own)
        course = implicit(task, given, value)
        figures["implicit"] = told_course("implicit CG", course)
        ratios["implicit"] = figures["implicit"]["ratio"] = _ratio(course, own)
    return figures, ratios


def _objective(blocks: Blocks, parameters: AlsParameters) -> Callable[[Factors], float]:
    return lambda factors: objective_value(blocks[0], blocks[1], factors[0], factors[1], parameters)


def _ratio(peer: Course, own: Course) -> float | None:
    reached = own.until_as_good_as(peer)
    return None if reached is None else peer.seconds[-1] / reached


def told_course(name: str, course: Course) -> dict[str, Any]:
    """Print one course and return it for the result."""
    print(f"{name}: {course.seconds[-1] / len(course.seconds):.2f} s an epoch, {course.seconds_around:.2f} s around")
    for epoch, row in enumerate(zip(course.seconds, course.objective, course.ndcg, strict=True), start=1):
        print(
            f"  epoch {epoch:2d}  {row[0]:8.2f} s  objective {row[1]:.6g}  NDCG@10 {row[2][0]:.4f} ± {row[2][1]:.4f}",
            flush=True,
        )
    return {
        "seconds": [round(s, 3) for s in course.seconds],
        "objective": course.objective,
        "ndcg": course.ndcg,
        "seconds_around": course.seconds_around,
    }


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows what every training benchmark is told: the pairs, the rank, whether to keep."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["planted", "gowalla", "ml-1m-ncf"], default="planted")
    parser.add_argument("--users", type=int, default=138_493, help="of planted data, as are items and pairs")
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--pairs", type=int, default=17_538_366)
    parser.add_argument("--cache", type=Path, default=None, help="folder in which planted pairs are kept")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run ours and the peers, print the result line."""
    parser = parser_of(__doc__)
    parser.add_argument("--plan", choices=["local"], default="local")
    parser.add_argument("--peers", default="irspack,implicit")
    parser.add_argument("--epochs", type=int, default=8, help="of each peer; ours may take twice as many")
    parser.add_argument("--solver", choices=["auto", "cg", "subspace", "exact"], default="auto", help="ours")
    parser.add_argument("--init-scale", type=float, default=AlsParameters.init_scale, help="ours")
    parser.add_argument("--relaxation", type=float, default=AlsParameters.relaxation, help="ours; 1: none")
    parser.add_argument("--irspack-solvers", default="CG,CHOLESKY,IALSPP")
    parser.add_argument("--alpha0", type=float, default=0.1, help="beside irspack: weight of every pair")
    parser.add_argument("--regularization", type=float, default=0.002, help="beside irspack: λ, scaled by count")
    parser.add_argument("--alpha", type=float, default=10.0, help="beside implicit: c of a pair that is there")
    parser.add_argument("--hkv-regularization", type=float, default=10.0, help="beside implicit: λ, not scaled")
    given = parser.parse_args(arguments)
    figures, ratios = compare(given)
    finish(f"train_als-local-{given.data}-{given.rank}", vars(given), figures, ratios, given.keep)


if __name__ == "__main__":
    main()
