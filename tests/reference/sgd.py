"""Stochastic gradients written rating by rating from the formulas, in float64: the truth that kernels are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass
class Model:
    """Factors and biases as they are written on paper; without biases b_u and b_i are zero and stay so."""

    user_factors: Vector
    item_factors: Vector
    user_biases: Vector
    item_biases: Vector
    mean: float
    biased: bool
    regularization: float
    bias_regularization: float

    def error(self, user: int, item: int, rating: float) -> float:
        product = float(self.user_factors[user] @ self.item_factors[item])
        return rating - self.mean - float(self.user_biases[user]) - float(self.item_biases[item]) - product

    def objective(self, ratings: Sequence[tuple[int, int, float]]) -> float:
        """Return Σ e² + ½ λ (|u|² + |v|²) + ½ λ_b (b_u² + b_i²), each rating with its own share of the ridge."""
        total = 0.0
        for user, item, rating in ratings:
            u, v = self.user_factors[user], self.item_factors[item]
            total += self.error(user, item, rating) ** 2 + 0.5 * self.regularization * float(u @ u + v @ v)
            total += 0.5 * self.bias_regularization * (self.user_biases[user] ** 2 + self.item_biases[item] ** 2)
        return total

    def copy(self) -> Model:
        return replace(
            self,
            user_factors=self.user_factors.copy(),
            item_factors=self.item_factors.copy(),
            user_biases=self.user_biases.copy(),
            item_biases=self.item_biases.copy(),
        )

    def gradients(self, user: int, item: int, rating: float) -> tuple[Vector, Vector, float, float]:
        """Return the gradient of one rating's objective by u, v, b_u and b_i."""
        e = self.error(user, item, rating)
        u, v = self.user_factors[user], self.item_factors[item]
        if not self.biased:
            return self.regularization * u - 2 * e * v, self.regularization * v - 2 * e * u, 0.0, 0.0
        return (
            self.regularization * u - 2 * e * v,
            self.regularization * v - 2 * e * u,
            self.bias_regularization * float(self.user_biases[user]) - 2 * e,
            self.bias_regularization * float(self.item_biases[item]) - 2 * e,
        )


def sgd(model: Model, ratings: Sequence[tuple[int, int, float]], learning_rate: float) -> None:
    """Take one step for each rating, in order."""
    for user, item, rating in ratings:
        by_u, by_v, by_b_u, by_b_i = model.gradients(user, item, rating)
        model.user_factors[user] = model.user_factors[user] - learning_rate * by_u
        model.item_factors[item] = model.item_factors[item] - learning_rate * by_v
        model.user_biases[user] -= learning_rate * by_b_u
        model.item_biases[item] -= learning_rate * by_b_i


@dataclass
class Moments:
    """Adam's memory of one row."""

    first: Vector
    second: Vector
    steps: int = 0


@dataclass
class Adam:
    """Adam that leaves rows alone which have no rating in the batch."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    batch_size: int
    moments: dict[tuple[str, int], Moments] = field(default_factory=dict)

    def run(self, model: Model, ratings: Sequence[tuple[int, int, float]]) -> None:
        """Take one step for each batch, the last of which may be shorter."""
        for first in range(0, len(ratings), self.batch_size):
            self._batch(model, ratings[first : first + self.batch_size])

    def _batch(self, model: Model, batch: Sequence[tuple[int, int, float]]) -> None:
        gradients: dict[tuple[str, int], Vector] = {}
        for user, item, rating in batch:
            by_u, by_v, by_b_u, by_b_i = model.gradients(user, item, rating)
            for key, gradient in (("user", user), np.append(by_u, by_b_u)), (("item", item), np.append(by_v, by_b_i)):
                gradients[key] = gradients.get(key, np.zeros_like(gradient)) + gradient
        for key, gradient in gradients.items():
            memory = self.moments.setdefault(key, Moments(np.zeros_like(gradient), np.zeros_like(gradient)))
            memory.steps += 1
            memory.first = self.beta1 * memory.first + (1 - self.beta1) * gradient
            memory.second = self.beta2 * memory.second + (1 - self.beta2) * gradient**2
            first = memory.first / (1 - self.beta1**memory.steps)
            second = memory.second / (1 - self.beta2**memory.steps)
            step = self.learning_rate * first / (np.sqrt(second) + self.epsilon)
            side, row = key
            factors, biases = (
                (model.user_factors, model.user_biases) if side == "user" else (model.item_factors, model.item_biases)
            )
            factors[row] -= step[:-1]
            biases[row] -= step[-1]
