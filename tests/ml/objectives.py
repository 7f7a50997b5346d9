"""Spark's two objectives from their formulas, in float64 over dense matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame

SETTINGS: dict[str, Any] = {"rank": 6, "maxIter": 6, "regParam": 0.1, "seed": 5}
"""Of the models of both trainers that the tests compare."""
BLOCKS: dict[str, Any] = {"numUserBlocks": 2, "numItemBlocks": 2}
"""For pyspark.ml on two cores; its default of ten blocks takes longer."""


@dataclass(frozen=True)
class Matrices:
    """Ratings and two factor matrices, dense, by ascending id: what every oracle here works on."""

    ratings: NDArray[np.float64]
    """(n_users, n_items), 0 where there is none: ML-100K has no rating of 0."""
    users: NDArray[np.float64]
    items: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        return self.users @ self.items.T

    def ridge(self, regularization: float) -> float:
        """λ (Σ n_u |x_u|² + Σ n_i |y_i|²), n counting positive ratings."""
        positive = self.ratings > 0
        users = positive.sum(axis=1) @ (self.users**2).sum(axis=1)
        items = positive.sum(axis=0) @ (self.items**2).sum(axis=1)
        return regularization * float(users + items)

    def explicit_objective(self, regularization: float) -> float:
        """Σ_S (r − x·y)² + ridge."""
        known = self.ratings != 0
        return float(((self.ratings - self.scores)[known] ** 2).sum()) + self.ridge(regularization)

    def implicit_objective(self, regularization: float, alpha: float) -> float:
        """Σ_all (1 + α|r|) (1[r > 0] − x·y)² + ridge (Hu, Koren, Volinsky, with Spark's ridge)."""
        confidence = 1 + alpha * np.abs(self.ratings)
        return float((confidence * ((self.ratings > 0) - self.scores) ** 2).sum()) + self.ridge(regularization)


def matrices(ratings: pd.DataFrame, model: Any) -> Matrices:
    """Return a model's factors as matrices; rows of ids it does not know are zero."""
    user_ids, item_ids = np.unique(ratings["user"]), np.unique(ratings["item"])
    table = np.zeros((len(user_ids), len(item_ids)))
    u, i = np.searchsorted(user_ids, ratings["user"]), np.searchsorted(item_ids, ratings["item"])
    table[u, i] = ratings["rating"]
    return Matrices(table, _rows(model.userFactors, user_ids), _rows(model.itemFactors, item_ids))


def _rows(frame: DataFrame, ids: NDArray[Any]) -> NDArray[np.float64]:
    known = frame.toPandas()
    rows = np.zeros((len(ids), len(known["features"][0])))
    rows[np.searchsorted(ids, known["id"].astype(int))] = np.stack(known["features"].to_list())
    return rows
