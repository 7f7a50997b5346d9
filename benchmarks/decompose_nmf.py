"""Topics of texts: non-negative factors by the training loop's `local` plan beside scikit-learn's NMF.

20newsgroups: counts of 3,072 words in 18,845 posts, 20 topics. bbc-news: TF-IDF weights of words in 2,225 articles,
5 topics, which are held against the five labels of the articles.

Both start from cells in memory, scikit-learn from its compressed matrix and ours from (row, column, count), which it
packs within the time; each has run once before the clock does and begins on idle cores, and two threads are allowed to
both. scikit-learn has its defaults (start NNDSVDa, coordinate descent, tolerance 1e-4, at most 200 iterations). The
objective ‖R − XYᵀ‖² of both is computed by one function in float64. A document belongs to the topic whose part in it is
longest, by one rule for both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.decomposition import NMF
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from factorlake.evaluation.clustering import purity
from factorlake.models.als import train
from factorlake.models.blocks import order_ids, pack_positions
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.topics import main_topic, topics_of

Factors = tuple[NDArray[Any], NDArray[Any]]
PAUSE = 0.3
"""Seconds before each run: BLAS threads of the one before go on turning for some 30 ms, on cores that the next one
needs."""


@dataclass(frozen=True)
class Texts:
    """Documents as a matrix of words, and the labels of documents where there are any."""

    matrix: csr_array
    words: list[str]
    n_topics: int
    labels: NDArray[Any] | None = None


def newsgroups(folder: Path) -> Texts:
    """Return the word counts of 20newsgroups."""
    cells = pd.read_parquet(folder / "20newsgroups-bow" / "bow.parquet")
    words = pd.read_parquet(folder / "20newsgroups-bow" / "vocab.parquet").sort_values("token")["word"].tolist()
    matrix = csr_array((cells["count"].to_numpy(np.float64), (cells["doc"], cells["token"])))
    return Texts(matrix, words, n_topics=20)


def bbc_news(folder: Path) -> Texts:
    """Return the articles of bbc-news with the TF-IDF weights of words that stand in five of them or more."""
    corpus = pd.read_parquet(folder / "bbc-news" / "corpus.parquet")
    counter = TfidfVectorizer(min_df=5)
    matrix = csr_array(counter.fit_transform(corpus["text"]))
    return Texts(matrix, counter.get_feature_names_out().tolist(), n_topics=5, labels=corpus["label"].to_numpy())


TEXTS: dict[str, Callable[[Path], Texts]] = {"20newsgroups": newsgroups, "bbc-news": bbc_news}


def squared_error(matrix: csr_array, factors: Factors) -> float:
    """Return ‖R − XYᵀ‖² over every cell in float64, from the cells of R and the Gram matrices."""
    x, y = (np.asarray(one, np.float64) for one in factors)
    return float(matrix.power(2).sum() - 2.0 * np.sum((matrix @ y) * x) + np.sum((x.T @ x) * (y.T @ y)))


class Ours:
    """The `local` plan of the training loop."""

    def __init__(self, texts: Texts, given: argparse.Namespace) -> None:
        cells = texts.matrix.tocoo()
        (self.rows, row_hashes), (self.columns, column_hashes) = (_placed(size) for size in texts.matrix.shape)
        users, items = (
            place[at].astype(np.int32) for place, at in zip((self.rows, self.columns), cells.coords, strict=True)
        )
        self.given = users, items, cells.data.astype(np.float32), row_hashes, column_hashes
        self.threads = given.threads
        self.parameters = AlsParameters(
            objective="frobenius",
            nonnegative=True,
            rank=texts.n_topics,
            regularization=0.0,
            epochs=200,
            tolerance=given.tolerance,
            seed=given.seed,
        )
        self.epochs = 0

    def __call__(self) -> Factors:
        user_blocks, item_blocks = pack_positions(*self.given, self.threads)
        with LocalPlan(user_blocks, item_blocks, self.parameters, self.threads) as plan:
            model = train(plan, self.parameters)
        self.epochs = model.epochs
        return model.user_factors[self.rows], model.item_factors[self.columns]


def _placed(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each of some numbered rows stands among them, ordered by hash as training does, and the hashes in
    that order."""
    names = [str(n) for n in range(size)]
    ordered, hashes = order_ids(names)
    place_of = {name: place for place, name in enumerate(ordered)}
    return np.array([place_of[name] for name in names]), hashes


class ScikitLearns:
    """scikit-learn's NMF as it comes."""

    def __init__(self, texts: Texts, given: argparse.Namespace) -> None:
        self.matrix, self.n_topics, self.threads = texts.matrix, texts.n_topics, given.threads
        self.epochs = 0

    def __call__(self) -> Factors:
        model = NMF(self.n_topics)
        with threadpool_limits(self.threads):
            rows = model.fit_transform(self.matrix)
        self.epochs = model.n_iter_
        return rows, model.components_.T


def compared(texts: Texts, given: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds, objective and topics of both, taken in turn."""
    runs: dict[str, Ours | ScikitLearns] = {
        "factorlake": Ours(texts, given),
        "scikit_learn": ScikitLearns(texts, given),
    }
    factors = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.repeat):
        for name, run in runs.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            factors[name] = run()
            seconds[name].append(time.perf_counter() - began)
    told: dict[str, Any] = {}
    for name, run in runs.items():
        rows, columns = factors[name]
        told[name] = {
            "seconds": statistics.median(seconds[name]),
            "each": seconds[name],
            "epochs": run.epochs,
            "objective": squared_error(texts.matrix, factors[name]),
            "topics": [
                [texts.words[column] for column in topic.columns] for topic in topics_of(rows, columns, given.top_words)
            ],
        }
        if texts.labels is not None:
            told[name]["purity"] = purity(main_topic(rows, columns), texts.labels)
            told[name]["purity_of_largest_factor"] = purity(rows.argmax(axis=1), texts.labels)
    ours, theirs = told["factorlake"], told["scikit_learn"]
    told["objective_ratio"] = ours["objective"] / theirs["objective"]
    told["seconds_ratio"] = ours["seconds"] / theirs["seconds"]
    return told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this method can be told."""
    parser.add_argument("--texts", default=",".join(TEXTS), help="which collections, of " + ", ".join(TEXTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=1e-5, help="least relative fall of the objective an epoch")
    parser.add_argument("--top-words", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Factor each collection by both, print what they found, and return figures and ratios."""
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    if arguments.folder is None:
        print("no texts: FACTORLAKE_DATA names no folder", flush=True)
        return figures, ratios
    for name in arguments.texts.split(","):
        texts = TEXTS[name](Path(arguments.folder))
        told = compared(texts, arguments)
        rows, columns = texts.matrix.shape
        figures[name] = {"rows": rows, "columns": columns, "cells": texts.matrix.nnz, **told}
        print(f"{name}: {rows:,} × {columns:,}, {texts.matrix.nnz:,} cells, {texts.n_topics} topics")
        for who in ("factorlake", "scikit_learn"):
            one = told[who]
            found = f"   purity {one['purity']:.4f}" if "purity" in one else ""
            print(f"  {who:<13}{one['seconds']:8.3f} s{one['epochs']:5d} epochs   {one['objective']:,.1f}{found}")
        for words in told["factorlake"]["topics"]:
            print("    " + " ".join(words), flush=True)
        ratios[f"objective_ratio_{name}"] = told["objective_ratio"]
        ratios[f"scikit_learn_{name}"] = 1.0 / told["seconds_ratio"]
        if texts.labels is not None:
            ratios[f"purity_{name}"] = told["factorlake"]["purity"] / told["scikit_learn"]["purity"]
    return figures, ratios
