"""Parameters: pyspark.ml's own, taken from the installed Spark, and those that only this engine has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self, get_args

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.recommendation import _ALSModelParams, _ALSParams

from factorlake.errors import ConfigError
from factorlake.models.mappings import from_ials, from_spark
from factorlake.models.parameters import AlsParameters
from factorlake.types import PlanName, Solver

SPARKS_INIT_SCALE = 1.0
"""Spark's initial rows have length 1. From the engine's smaller ones its explicit objective takes more epochs."""
DEFAULT_SEED = 7
"""pyspark.ml's default seed differs from process to process; equal input shall give an equal model."""


class ModelParams(_ALSModelParams):
    """Parameters that estimator and model share."""

    seenFilter: Param[bool] = Param(
        Params._dummy(),
        "seenFilter",
        "whether lists leave out the pairs the model was trained on. A model keeps those pairs only if this was set "
        "when it was fitted.",
        typeConverter=TypeConverters.toBoolean,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol="user", itemCol="item", coldStartStrategy="nan", seenFilter=False)

    def getSeenFilter(self) -> bool:
        """Return the value of seenFilter."""
        return self.getOrDefault(self.seenFilter)

    def setSeenFilter(self, value: bool) -> Self:
        """Set whether lists leave out the pairs of the training data."""
        return self._set(seenFilter=value)

    def cold_start(self) -> str:
        """Return coldStartStrategy in small letters.

        Raises
        ------
        ConfigError : neither nan nor drop.
        """
        strategy = self.getColdStartStrategy().lower()
        if strategy not in ("nan", "drop"):
            raise ConfigError(f"coldStartStrategy is {strategy!r}; it must be 'nan' or 'drop'")
        return strategy


class EstimatorParams(_ALSParams, ModelParams):
    """Parameters of the estimator."""

    solver: Param[str] = Param(
        Params._dummy(),
        "solver",
        "how a row's system is solved: 'exact', 'cg' (a few conjugate-gradient steps from the last epoch's row), "
        "'subspace' (16 coordinates after the other, each block solved once) or 'auto' (cg, with one more step while "
        "the objective falls fast).",
        typeConverter=TypeConverters.toString,
    )
    unobservedWeight: Param[float] = Param(
        Params._dummy(),
        "unobservedWeight",
        "implicit only: weight α0 of every pair. Setting it turns the objective from Spark's into that of modern iALS: "
        "confidence α|r|, target 1, ridge λ(n + α0 n_other)^ν.",
        typeConverter=TypeConverters.toFloat,
    )
    frequencyExponent: Param[float] = Param(
        Params._dummy(),
        "frequencyExponent",
        "exponent ν of a row's count in its ridge; 1 is Spark's, 0 gives every row the same ridge.",
        typeConverter=TypeConverters.toFloat,
    )
    biases: Param[bool] = Param(
        Params._dummy(),
        "biases",
        "explicit only: whether the model has a mean and a bias for each user and item.",
        typeConverter=TypeConverters.toBoolean,
    )
    biasRegParam: Param[float] = Param(
        Params._dummy(),
        "biasRegParam",
        "ridge of the biases, not scaled by counts (> 0).",
        typeConverter=TypeConverters.toFloat,
    )
    tol: Param[float] = Param(
        Params._dummy(),
        "tol",
        "least relative fall of the objective in an epoch; training stops after an epoch below it. 0: all maxIter "
        "epochs.",
        typeConverter=TypeConverters.toFloat,
    )
    plan: Param[str] = Param(
        Params._dummy(),
        "plan",
        "where rows lie and are solved: 'local' (threads of the driver), 'broadcast' (driver; Spark tasks), 'shuffle' "
        "(files; Spark tasks) or 'auto'. It changes no number.",
        typeConverter=TypeConverters.toString,
    )
    workspace: Param[str] = Param(
        Params._dummy(),
        "workspace",
        "folder for what training keeps meanwhile, removed at the end; on a cluster one that all workers see. Not set: "
        "a temporary folder of this machine.",
        typeConverter=TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            seed=DEFAULT_SEED,
            solver="auto",
            frequencyExponent=1.0,
            biases=False,
            biasRegParam=AlsParameters.bias_regularization,
            tol=0.0,
            plan="auto",
        )

    def getSolver(self) -> str:
        """Return the value of solver."""
        return self.getOrDefault(self.solver)

    def getUnobservedWeight(self) -> float | None:
        """Return the value of unobservedWeight; None: Spark's objective."""
        return self.getOrDefault(self.unobservedWeight) if self.isDefined(self.unobservedWeight) else None

    def getFrequencyExponent(self) -> float:
        """Return the value of frequencyExponent."""
        return self.getOrDefault(self.frequencyExponent)

    def getBiases(self) -> bool:
        """Return the value of biases."""
        return self.getOrDefault(self.biases)

    def getBiasRegParam(self) -> float:
        """Return the value of biasRegParam."""
        return self.getOrDefault(self.biasRegParam)

    def getTol(self) -> float:
        """Return the value of tol."""
        return self.getOrDefault(self.tol)

    def getPlan(self) -> str:
        """Return the value of plan."""
        return self.getOrDefault(self.plan)

    def getWorkspace(self) -> str | None:
        """Return the value of workspace; None: a temporary folder."""
        return self.getOrDefault(self.workspace) if self.isDefined(self.workspace) else None

    def engine_parameters(self) -> AlsParameters:
        """Return the engine's numbers for these parameters.

        Implicit without unobservedWeight is Spark's objective: confidence 1 + α|r|, ridge λ times the number of
        positive ratings. Explicit without biases is Spark's: no mean, ridge λ times the number of ratings.

        Raises
        ------
        ConfigError : a value out of range, or nonnegative=True with a solver that does not keep factors so.
        """
        self.cold_start()
        for name, value, choices in (("solver", self.getSolver(), Solver), ("plan", self.getPlan(), PlanName)):
            if value not in get_args(choices):
                raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(get_args(choices))}")
        implicit, weight, seed = self.getImplicitPrefs(), self.getUnobservedWeight(), self.getSeed()
        modern, biases = implicit and weight is not None, not implicit and self.getBiases()
        if implicit and not self.getAlpha() > 0:
            raise ConfigError(f"alpha is {self.getAlpha()}; it must be greater than 0")
        if self.getMaxIter() < 1:
            raise ConfigError(f"maxIter is {self.getMaxIter()}; it must be at least 1")
        rank, ridge = self.getRank(), self.getRegParam()
        if implicit and weight is not None:
            objective = replace(from_ials(rank, ridge, weight), nonnegative=self.getNonnegative())
        else:
            objective = from_spark(rank, ridge, self.getAlpha(), implicit, self.getNonnegative())
        return replace(
            objective,
            nu=self.getFrequencyExponent(),
            biases=biases,
            bias_regularization=self.getBiasRegParam(),
            epochs=self.getMaxIter(),
            init_scale=AlsParameters.init_scale if modern or biases else SPARKS_INIT_SCALE,
            solver=self.getSolver(),  # type: ignore[arg-type]
            seed=DEFAULT_SEED if seed is None else seed,
            tolerance=self.getTol() or None,
        )
