"""The numbers that define an ALS model and its training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from factorlake.errors import ConfigError
from factorlake.types import Objective, Side, Solver


@dataclass(frozen=True)
class AlsParameters:
    """Objective, rank, ridge and schedule of alternating least squares.

    Implicit: Σ_S c (t − x·y)² + α0 Σ_all (x·y)² + λ (Σ_u w_u |x_u|² + Σ_i w_i |y_i|²), w = (n + κ·n_other)^ν; items may
    have a λ of their own.
    Explicit: Σ_S (r − μ − b_u − b_i − x·y)² + λ (Σ w |x|² + Σ w |y|²) + λ_b (Σ b_u² + Σ b_i²).
    Frobenius: Σ_all (r − x·y)² + λ (Σ w |x|² + Σ w |y|²), r = 0 where nothing is observed; non-negative factors only.
    """

    objective: Objective = "implicit"
    rank: int = 32
    regularization: float = 0.01
    """λ."""
    item_regularization: float | None = None
    """λ of the items' ridge; None: that of the users."""
    nu: float = 1.0
    """ν, the exponent of a row's count in its ridge."""
    kappa: float | None = None
    """κ; None: α0 for the implicit objective with target 1, else 0."""
    alpha0: float = 0.1
    """Weight of every pair in the implicit objective (1 for Hu-Koren-Volinsky and Spark)."""
    alpha: float | None = None
    """α of Hu-Koren-Volinsky's confidence; None: weight |r| with target 1."""
    biases: bool = True
    """Explicit only: μ, b_u and b_i."""
    bias_regularization: float = 5.0
    """λ_b."""
    epochs: int = 16
    init_scale: float = 0.3
    """Standard deviation of an initial factor entry times √rank."""
    solver: Solver = "auto"
    """auto: cg, with one more step while the objective falls fast."""
    cg_steps: int = 2
    relaxation: float = 1.5
    """ω of over-relaxation from the third epoch on, under the solver cg; 1: none."""
    seed: int = 7
    tolerance: float | None = 1e-4
    """Least relative gain of an epoch that counts as progress; None: every epoch runs."""
    patience: int = 1
    """Epochs without progress before training stops."""
    nonnegative: bool = False
    """Keep every factor at 0 or above, by coordinate descent; biases stay free. Such factors are never turned."""
    feature_strength: float = 1.0
    """s: how strongly an average row is drawn to where its features put it, over its ridge."""
    feature_regularization: float = 1.0
    """μ: as many rows at zero stand beside the real ones where rows are regressed on their features."""
    double_precision: bool = False
    """Train in float64. The factors that come out are float32 either way."""

    def __post_init__(self) -> None:
        at_least = {
            "rank": 1, "regularization": 0, "nu": 0, "alpha0": 0, "bias_regularization": 0, "epochs": 1,
            "init_scale": 0, "cg_steps": 1, "relaxation": 1, "patience": 1, "feature_strength": 0,
            "feature_regularization": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least {least} and finite, got {getattr(self, name)}")
        if self.kappa is not None and not 0 <= self.kappa < math.inf:
            raise ConfigError(f"kappa must be at least 0 and finite, got {self.kappa}; leave it out for its default")
        if self.item_regularization is not None and not 0 <= self.item_regularization < math.inf:
            raise ConfigError(f"item_regularization must be at least 0 and finite, got {self.item_regularization}")
        if not self.relaxation < 2:
            raise ConfigError(f"relaxation must be less than 2, got {self.relaxation}: rows would move on for ever")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha must be greater than 0 and finite, got {self.alpha}; leave it out for weight |r|")
        if self.objective == "frobenius" and not self.nonnegative:
            raise ConfigError(
                "the objective frobenius is trained with nonnegative factors: set nonnegative to true, or take the "
                "matrix apart by decompose --method svd, which finds the lowest point with factors of either sign"
            )
        if self.nonnegative and self.solver != "auto":
            raise ConfigError(
                f"solver is {self.solver!r}, which makes factors of either sign; with nonnegative leave it at 'auto'"
            )
        if self.has_biases and not self.bias_regularization > 0:
            raise ConfigError("bias_regularization must be greater than 0 where there are biases")

    @property
    def row_solver(self) -> Literal["cg", "subspace", "exact", "nonnegative", "hals"]:
        """What solves rows: ``solver``, and what ``auto`` stands for."""
        if self.nonnegative:
            return "hals" if self.objective == "frobenius" else "nonnegative"
        return "cg" if self.solver == "auto" else self.solver

    @property
    def last_solver(self) -> Literal["exact", "nonnegative", "hals"]:
        """What solves users in the half step that ends training, and in every later one."""
        if self.nonnegative:
            return "hals" if self.objective == "frobenius" else "nonnegative"
        return "exact"

    @property
    def pair_weight(self) -> float | None:
        """Weight of every pair's score in the objective; None where only observed pairs are in it."""
        return {"implicit": self.alpha0, "explicit": None, "frobenius": 1.0}[self.objective]

    def ridge_of(self, side: Side) -> float:
        """Return λ of one side."""
        if side == "item" and self.item_regularization is not None:
            return self.item_regularization
        return self.regularization

    @property
    def has_biases(self) -> bool:
        return self.objective == "explicit" and self.biases

    @property
    def count_offset(self) -> float:
        """κ as it enters the ridge weights."""
        if self.kappa is not None:
            return self.kappa
        return self.alpha0 if self.objective == "implicit" and self.alpha is None else 0.0

    @property
    def width(self) -> int:
        """Unknowns of one row: the factors, and the bias where there is one."""
        return self.rank + int(self.has_biases)
