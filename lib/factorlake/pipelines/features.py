"""Features of a model: learnt from the attributes when it is trained, kept in its models row, read again to answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.config.settings import FeatureSettings
from factorlake.models.features import Vocabulary
from factorlake.models.trained import TrainedModel
from factorlake.pipelines.context import Context
from factorlake.spark.features import FeaturePrior, SideFeatures, attribute_texts, feature_rows, learn_vocabulary
from factorlake.spark.training import FitFeatures
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from factorlake.types import Side

SIDES: tuple[Side, ...] = ("user", "item")


def learn_features(context: Context) -> FitFeatures | None:
    """Return the features that the settings name, with columns learnt from the attributes as they are; None where they
    name none.

    Raises
    ------
    DataRefusedError : an attribute that no id has.
    """
    settings = context.settings.train.features
    if settings is None:
        return None

    def learnt(side: Side) -> SideFeatures | None:
        names = names_of(settings, side)
        if not names:
            return None
        texts = _texts(context, side, names)
        vocabulary = learn_vocabulary(texts, names, settings.separator, settings.max_values, settings.bins)
        return SideFeatures(vocabulary, feature_rows(texts, vocabulary))

    return FitFeatures(learnt("user"), learnt("item"))


def kept_features(context: Context, row: Row) -> FitFeatures | None:
    """Return the features of the model of a models row: its columns, and the attributes as they are now."""
    if row["features"] is None:
        return None
    told = json.loads(row["features"])

    def kept(side: Side) -> SideFeatures | None:
        if told[side] is None:
            return None
        vocabulary = Vocabulary.from_json(told[side])
        return SideFeatures(vocabulary, feature_rows(_texts(context, side, list(vocabulary.names)), vocabulary))

    return FitFeatures(kept("user"), kept("item"))


def features_print(context: Context) -> str:
    """Return a hash of the attributes that features are made of, whatever their order; empty where none are."""
    settings = context.settings.train.features
    if settings is None:
        return ""
    told = []
    for side in SIDES:
        names = names_of(settings, side)
        if names:
            row_hash = F.xxhash64("id", "texts").cast("decimal(38,0)")
            found = _texts(context, side, names).agg(F.count(F.lit(1)), F.sum(row_hash)).collect()[0]
            told.append(f"{side}:{found[0]}:{found[1]}")
    return "+" + "+".join(told)


def model_row(features: FitFeatures | None, model: TrainedModel[Any]) -> dict[str, Any]:
    """Return what a models row keeps of a model's features."""
    if features is None:
        return {}
    kept: dict[str, Any] = {}
    factors = {}
    for side in SIDES:
        own, weights = features.of(side), model.feature_weights(side)
        kept[side] = None if own is None else own.vocabulary.to_json()
        factors[f"{side}_feature_factors"] = None if weights is None else weights.tobytes()
    kept["strength"] = None if model.user_prior_strength is None else model.user_prior_strength.tolist()
    return {"features": json.dumps(kept), **factors}


def kept_prior(context: Context, row: Row, side: Side, features: FitFeatures | None) -> FeaturePrior | None:
    """Return the prior that the models row keeps of one side; None where the side has no features."""
    own = None if features is None else features.of(side)
    if own is None:
        return None
    flat = np.frombuffer(row[f"{side}_feature_factors"], np.float32)
    strength = np.array(json.loads(row["features"])["strength"]) if side == "user" else None
    return _prior(context, side, own, flat.reshape(own.vocabulary.n_columns, -1), strength)


def fitted_prior(
    context: Context, side: Side, features: FitFeatures | None, model: TrainedModel[Any]
) -> FeaturePrior | None:
    """Return the prior of one side of a model just trained; None where the side has no features."""
    own, weights = None if features is None else features.of(side), model.feature_weights(side)
    if own is None or weights is None:
        return None
    return _prior(context, side, own, weights, model.user_prior_strength if side == "user" else None)


def _prior(
    context: Context,
    side: Side,
    own: SideFeatures,
    weights: NDArray[np.float32],
    strength: NDArray[np.float64] | None,
) -> FeaturePrior:
    """Return where ids of one side lie by their features, and whether silent ones are answered."""
    settings = context.settings.train.features
    answers = settings is not None and (settings.silent_users if side == "user" else settings.silent_items)
    return FeaturePrior(weights, strength, own.rows, answers)


def names_of(settings: FeatureSettings, side: Side) -> list[str]:
    """Return the attributes that the settings name of one side."""
    return list(dict.fromkeys(settings.users if side == "user" else settings.items))


def _texts(context: Context, side: Side, names: list[str]) -> DataFrame:
    table = f"{side}_attributes"
    attributes = delta_io.read_or_empty(context.spark, context.lake.shared(table), SCHEMAS[table])
    return attribute_texts(attributes, names)
