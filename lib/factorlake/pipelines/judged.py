"""Our models made ready to be judged: the candidate, the live model, a model trained anew on the known part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.models.blocks import number_of_blocks
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines.context import Context
from factorlake.pipelines.features import fitted_prior, kept_features, kept_prior
from factorlake.pipelines.fit import als_parameters, fit
from factorlake.pipelines.judging import LIVE, MODEL, Part
from factorlake.pipelines.models import of_its_settings, trainer_of
from factorlake.pipelines.train import item_factors_frame
from factorlake.spark.exchange import Exchange
from factorlake.spark.features import FeaturePrior
from factorlake.spark.fold_in import fold_in
from factorlake.spark.item_side import LoadedItems, load_items
from factorlake.spark.pair_scores import score_pairs
from factorlake.spark.scorer import score_top_k
from factorlake.spark.training import FitFeatures
from factorlake.tables import delta_io, registry


@dataclass(frozen=True)
class Judged:
    """A model: its items with the workers, and the numbers its users fold in with."""

    name: str
    items: LoadedItems
    gram: NDArray[np.float64]
    parameters: AlsParameters
    n_items: int
    n_blocks: int
    prior: FeaturePrior | None = None
    """Of users, where the model has features of them."""

    @property
    def answers_cold(self) -> bool:
        return self.prior is not None and self.prior.answers_silent

    def fold(self, part: Part) -> DataFrame:
        """Return (user_id, factor, bias) of a part's users, solved for what is known of them.

        Every user who is judged by one of our models passes through here.
        """
        numbered = self.items.frame.withColumnRenamed("id", "item_id")
        pairs = part.known.join(numbered, on="item_id", how="left")
        prior = self.prior
        if prior is not None:
            asked = part.users().withColumnRenamed("user_id", "id")
            prior = replace(prior, features=prior.features.among(asked))
        return fold_in(pairs, self.items.shipped, self.gram, self.parameters, self.n_items, self.n_blocks, prior)

    def lists(self, part: Part, k: int) -> DataFrame:
        """Return the best k unknown items of each user, with their scores."""
        return score_top_k(self.fold(part), part.known, self.items.shipped, k, self.n_blocks)

    def scores(self, part: Part) -> DataFrame:
        """Return the scores of the pairs asked for; of an explicit model they are predicted ratings, also of users and
        items that it does not know (μ and the biases there are)."""
        return score_pairs(self.fold(part), part.asked_pairs(), self.items.shipped, self.n_blocks)


def candidate(context: Context, row: Row, exchange: Exchange) -> Judged:
    """Return the candidate as it was trained: on the events up to its cut-off."""
    path = context.lake.candidate(row["model_version"], "factors")
    items = delta_io.read(context.spark, path).where(F.col("side") == "item")
    return _judged(context, MODEL, items, row, exchange)


def published(context: Context, publication: Row, exchange: Exchange) -> Judged:
    """Return the live model as its publication recorded it."""
    version = publication["model_version"]
    row = registry.model(context.spark, context.lake, version)
    if row is None:
        raise ConfigError(f"the published model {version} has no row in the models table; publish a new one by --force")
    path = context.lake.published("item_factors", context.settings.publish.slot)
    items = delta_io.read(context.spark, path, dict(publication["versions"])["item_factors"])
    return _judged(context, LIVE, items.withColumnRenamed("item_id", "id"), row, exchange)


def _judged(context: Context, name: str, items: DataFrame, row: Row, exchange: Exchange) -> Judged:
    own = of_its_settings(context, row)
    parameters = als_parameters(own.settings)
    gram = np.frombuffer(row["gram"], np.float64).reshape(row["rank"], row["rank"])
    loaded = load_items(items, exchange, row["mean"])
    n_blocks = number_of_blocks(row["n_observed"])
    prior = kept_prior(own, row)
    return Judged(name, loaded, gram, parameters, row["n_items"], n_blocks, prior)


def refit(context: Context, row: Row, known: DataFrame, exchange: Exchange) -> Judged:
    """Train a model of its own on the known part of a split that is not by time."""
    features = FitFeatures(kept_features(context, row, "user"), kept_features(context, row, "item"))
    fitted = fit(context, known, row["model_version"], trainer_of(row), features=features)
    try:
        frame = item_factors_frame(context, fitted, exchange, known, features)
        items = load_items(frame, exchange, fitted.model.mean)
    finally:
        fitted.release()
    n_blocks = number_of_blocks(fitted.n_observed)
    prior = fitted_prior(context, "user", features, fitted.model)
    return Judged(MODEL, items, fitted.model.item_gram, fitted.parameters, fitted.items.n_ids, n_blocks, prior)
