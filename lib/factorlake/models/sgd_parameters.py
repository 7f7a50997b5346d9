"""The numbers that define a training by stochastic gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from factorlake.errors import ConfigError
from factorlake.kernels.sgd import AdamStep, Columns, side_columns
from factorlake.types import Side

Optimizer = Literal["sgd", "adam"]
Scaling = Literal["none", "minmax"]
MOST_STRATA = 1024


@dataclass(frozen=True)
class SgdParameters:
    """Objective, rank and schedule of training by stochastic gradients.

    Objective: Σ_S (r − μ − b_u − b_i − u·v)² + ½ λ (Σ_u n_u |u|² + Σ_i n_i |v|²) + ½ λ_b (Σ n_u b_u² + Σ n_i b_i²), n
    being a row's number of ratings: each rating takes its own share of the ridge. Without biases it is that of ALS with
    the ridge by count (ν = 1) and half of λ.
    """

    optimizer: Optimizer = "sgd"
    """sgd: a step for each rating; adam: one for each mini-batch, its length by each row's own past gradients."""
    rank: int = 8
    learning_rate: float = 0.01
    """α."""
    regularization: float = 0.02
    """λ: a step takes α·λ of a factor off it."""
    biases: bool = True
    """μ (the mean rating), b_u and b_i."""
    bias_regularization: float = 0.02
    """λ_b."""
    epochs: int = 20
    batch_size: int = 64
    """Adam: ratings of a step."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    init_scale: float | None = None
    """Standard deviation of an initial factor entry; None: 1/k."""
    scaling: Scaling = "none"
    """minmax: ratings are trained as (r − min)/(max − min), with λ on that scale; predictions are brought back and held
    within min and max."""
    validation_share: float = 0.0
    """Share of ratings that is not trained on, chosen by a hash of (seed, user, item)."""
    tolerance: float | None = 0.0
    """Least relative fall of the validation loss that counts as progress; None: every epoch runs."""
    patience: int = 3
    """Epochs without progress before training stops."""
    strata: int = 8
    """Groups of users and of items: so many cells at most are trained at a time. Another number is another order of
    ratings, and so another model."""
    decay: float = 0.0
    """The learning rate of epoch t is α / (1 + decay·(t − 1))."""
    seed: int = 7
    double_precision: bool = False
    """Train in float64. The factors that come out are float32 either way."""

    def __post_init__(self) -> None:
        at_least = {
            "rank": 1, "regularization": 0, "bias_regularization": 0, "epochs": 1, "batch_size": 1, "patience": 1,
            "strata": 1, "decay": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.strata > MOST_STRATA:
            raise ConfigError(f"strata must be at most {MOST_STRATA}, got {self.strata}")
        for name, value in {
            "learning_rate": self.learning_rate,
            "epsilon": self.epsilon,
            "init_scale": self.deviation,
        }.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be greater than 0 and finite, got {value}")
        for name in ("beta1", "beta2", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        if self.optimizer not in ("sgd", "adam") or self.scaling not in ("none", "minmax"):
            raise ConfigError(
                f"optimizer is sgd or adam, scaling none or minmax; got {self.optimizer!r} and {self.scaling!r}"
            )

    @property
    def deviation(self) -> float:
        """Standard deviation of an initial factor entry."""
        return 1.0 / self.rank if self.init_scale is None else self.init_scale

    @property
    def dtype(self) -> Literal["float32", "float64"]:
        """Of rows while they are trained."""
        return "float64" if self.double_precision else "float32"

    @property
    def width(self) -> int:
        """Columns of a row of the trained model: the factors, and the bias where there is one."""
        return self.rank + int(self.biases)

    @property
    def adam(self) -> AdamStep:
        """How Adam steps in the first epoch."""
        return AdamStep(self.learning_rate, self.batch_size, self.beta1, self.beta2, self.epsilon)

    def columns(self, side: Side) -> Columns:
        """Return what the columns of a side's rows are while they are trained."""
        return side_columns(side, self.rank, self.biases, self.regularization, self.bias_regularization, self.dtype)

    def learning_rate_of(self, epoch: int) -> float:
        """Return α of an epoch, counted from 1."""
        return self.learning_rate / (1.0 + self.decay * (epoch - 1))
