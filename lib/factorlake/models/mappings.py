"""The same objective under other names: parameters of pyspark.ml, of Hu-Koren-Volinsky and of iALS, there and back.

Only what defines the objective is mapped. Schedule, start and solver are no part of it: they stay at their defaults,
for the caller to replace. Each mapping is exact: objectives differ by a constant that holds no factor, at most, so they
have the same minimisers. docs/math.md, section 1, derives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from factorlake.errors import ConfigError

from .parameters import AlsParameters


@dataclass(frozen=True)
class SparkParameters:
    """What defines the objective of ``pyspark.ml.recommendation.ALS``.

    Implicit: Σ_all (1 + α|r|) (p − x·y)² + regParam (Σ n_u |x_u|² + Σ n_i |y_i|²), p = 1 for r > 0 and else 0, n
    counting the ratings r > 0 of a row. Explicit: Σ_S (r − x·y)² with the same ridge, n counting all ratings of a row.
    """

    rank: int
    reg_param: float
    alpha: float = 1.0
    """Implicit only."""
    implicit: bool = False
    nonnegative: bool = False


@dataclass(frozen=True)
class HuKorenParameters:
    """Hu, Koren, Volinsky, ICDM 2008: Σ_all (1 + α|r|) (p − x·y)² + λ (Σ |x_u|² + Σ |y_i|²)."""

    rank: int
    regularization: float
    alpha: float


@dataclass(frozen=True)
class IalsParameters:
    """Rendle et al., RecSys 2022: Σ_S (1 − x·y)² + α0 Σ_all (x·y)² + λ (Σ w_u |x_u|² + Σ w_i |y_i|²), w = (n + α0
    n_other)^ν."""

    rank: int
    regularization: float
    unobserved_weight: float
    """α0."""
    nu: float


def from_spark(
    rank: int, reg_param: float, alpha: float = 1.0, implicit: bool = False, nonnegative: bool = False
) -> AlsParameters:
    """Return the objective of pyspark.ml's ALS: `SparkParameters`. Explicit: without mean and biases.

    The implicit objective here is Spark's plus Σ_(r>0) (1 + 1/(αr)); the explicit ones are equal.

    Raises
    ------
    ConfigError : a number out of range; for the implicit objective also α = 0, which leaves no confidence to a rating.
    """
    if implicit and not alpha > 0:
        raise ConfigError(f"alpha is {alpha}; it must be greater than 0")
    return AlsParameters(
        objective="implicit" if implicit else "explicit",
        rank=rank,
        regularization=reg_param,
        nu=1.0,
        kappa=0.0,
        alpha0=1.0,
        alpha=alpha if implicit else None,
        biases=False,
        nonnegative=nonnegative,
    )


def from_hu_koren(rank: int, regularization: float, alpha: float) -> AlsParameters:
    """Return the objective of Hu, Koren and Volinsky: `HuKorenParameters`.

    Theirs plus Σ_(r>0) (1 + 1/(αr)) is the one here.

    Raises
    ------
    ConfigError : a number out of range.
    """
    return AlsParameters(
        rank=rank, regularization=regularization, nu=0.0, kappa=0.0, alpha0=1.0, alpha=alpha, biases=False
    )


def from_ials(rank: int, regularization: float, unobserved_weight: float, nu: float = 1.0) -> AlsParameters:
    """Return the objective of modern iALS: `IalsParameters`. The two are equal where every rating is 1.

    Raises
    ------
    ConfigError : a number out of range.
    """
    return AlsParameters(
        rank=rank,
        regularization=regularization,
        nu=nu,
        kappa=unobserved_weight,
        alpha0=unobserved_weight,
        alpha=None,
        biases=False,
    )


def to_spark(parameters: AlsParameters, all_ones: bool = False) -> SparkParameters:
    """Return the parameters with which pyspark.ml's ALS minimises the objective of ``parameters``.

    all_ones : every rating is 1. An implicit objective without α has a counterpart then as well, in other units: its
        scores there are 1 + α0 times those here, by α = 1/α0 and regParam = λ (1 + α0)/α0, so that items rank the same.

    Raises
    ------
    ConfigError : it cannot; names the parameter that has no counterpart there.
    """
    name = "pyspark.ml's ALS"
    if parameters.objective == "frobenius":
        raise _without("objective", "frobenius", name, "implicit or explicit")
    _ask_one_ridge(parameters, name)
    _ask("nu", parameters.nu, 1.0, name)
    _ask("kappa", parameters.count_offset, 0.0, name)
    _ask("biases", parameters.has_biases, False, name)
    ridge, weight = parameters.regularization, parameters.alpha0
    if parameters.objective == "explicit":
        return SparkParameters(parameters.rank, ridge, nonnegative=parameters.nonnegative)
    if parameters.alpha is not None:
        _ask("alpha0", weight, 1.0, name)
        return SparkParameters(parameters.rank, ridge, parameters.alpha, True, parameters.nonnegative)
    if not all_ones or not weight > 0:
        raise _without("alpha", None, name, "a number")
    return SparkParameters(parameters.rank, ridge * (1 + weight) / weight, 1 / weight, True, parameters.nonnegative)


def to_hu_koren(parameters: AlsParameters) -> HuKorenParameters:
    """Return the parameters with which Hu, Koren and Volinsky's objective is that of ``parameters``.

    Raises
    ------
    ConfigError : it is not; names the parameter that has no counterpart there.
    """
    name = "the objective of Hu, Koren and Volinsky"
    _ask("objective", parameters.objective, "implicit", name)
    _ask_one_ridge(parameters, name)
    _ask("nu", parameters.nu, 0.0, name)
    _ask("alpha0", parameters.alpha0, 1.0, name)
    _ask("nonnegative", parameters.nonnegative, False, name)
    if parameters.alpha is None:
        raise _without("alpha", None, name, "a number")
    return HuKorenParameters(parameters.rank, parameters.regularization, parameters.alpha)


def to_ials(parameters: AlsParameters) -> IalsParameters:
    """Return the parameters with which the objective of modern iALS is that of ``parameters``.

    Raises
    ------
    ConfigError : it is not; names the parameter that has no counterpart there.
    """
    name = "iALS"
    _ask("objective", parameters.objective, "implicit", name)
    _ask_one_ridge(parameters, name)
    _ask("alpha", parameters.alpha, None, name)
    _ask("nonnegative", parameters.nonnegative, False, name)
    if parameters.nu != 0:
        # With ν = 0 every weight is 1, whatever κ.
        _ask("kappa", parameters.count_offset, parameters.alpha0, name)
    return IalsParameters(parameters.rank, parameters.regularization, parameters.alpha0, parameters.nu)


def _ask_one_ridge(parameters: AlsParameters, name: str) -> None:
    _ask("item_regularization", parameters.ridge_of("item"), parameters.regularization, name)


def _ask(parameter: str, value: Any, wanted: Any, name: str) -> None:
    if value != wanted:
        raise _without(parameter, value, name, wanted)


def _without(parameter: str, value: Any, name: str, wanted: Any) -> ConfigError:
    return ConfigError(f"{parameter} is {value}, which has no counterpart in {name}: there it is {wanted}")
