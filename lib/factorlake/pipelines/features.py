"""Features of a model: learnt from the attributes when it is trained, kept in its models row, read again to answer."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Row

from factorlake.config.settings import FeatureSettings
from factorlake.errors import ConfigError
from factorlake.models.features import Vocabulary
from factorlake.models.trained import TrainedModel
from factorlake.pipelines.attributes import SOURCE
from factorlake.pipelines.context import Context
from factorlake.spark.features import FeaturePrior, SideFeatures, attribute_texts, learn_vocabulary, texts_print
from factorlake.spark.training import FitFeatures
from factorlake.tables import delta_io
from factorlake.types import SIDES, Side

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attributes:
    """The attributes that the settings make features of, each table at one version."""

    texts: dict[Side, DataFrame]
    """(id, texts) of the sides that have features."""
    versions: dict[str, int]
    """Of the tables, by name."""

    def print(self) -> str:
        """Return a hash of their contents, whatever their order; empty where there are none."""
        return "".join(f"+{side}:{texts_print(texts)}" for side, texts in self.texts.items())


def read_attributes(context: Context) -> Attributes:
    """Return the attributes that the settings name, as they are now; none where they name none."""
    settings = context.settings.train.features
    texts: dict[Side, DataFrame] = {}
    versions = {}
    for side in SIDES:
        names = [] if settings is None else names_of(settings, side)
        if names:
            texts[side], versions[_table(side)] = _read(context, side, names)
    return Attributes(texts, versions)


def learn_features(context: Context, attributes: Attributes, holds_out: bool) -> FitFeatures | None:
    """Return the features that the settings name, with columns learnt from the attributes; None where they name none.

    Raises
    ------
    ConfigError : events are held out, and attributes were made of all events.
    DataRefusedError : an attribute that no id has.
    """
    settings = context.settings.train.features
    if settings is None:
        return None
    found: dict[Side, SideFeatures] = {}
    for side, texts in attributes.texts.items():
        if holds_out:
            _refuse_leak(context, side, "hold nothing out (train.holdout_days)")
        names = names_of(settings, side)
        chosen = settings.separator, settings.max_values, settings.bins, settings.categories
        vocabulary = learn_vocabulary(texts, names, *chosen)
        for name, kind in vocabulary.kinds().items():
            log.info("features side=%s attribute=%s kind=%s", side, name, kind)
        found[side] = SideFeatures(vocabulary, texts)
    return FitFeatures(found.get("user"), found.get("item"))


def kept_features(context: Context, row: Row, side: Side) -> SideFeatures | None:
    """Return one side's features of the model of a models row, to judge it by: its columns, and the attributes as they
    are now; None where the side has none.

    Raises
    ------
    ConfigError : attributes were made of all events, so of those that judge too.
    """
    told = None if row["features"] is None else json.loads(row["features"])[side]
    if told is None:
        return None
    _refuse_leak(context, side, "leave the model unjudged (`publish --force` publishes it)")
    vocabulary = Vocabulary.from_json(told)
    return SideFeatures(vocabulary, _read(context, side, list(vocabulary.names))[0])


def _refuse_leak(context: Context, side: Side, way_out: str) -> None:
    if delta_io.last_details(context.spark, context.lake.shared(_table(side))).get(SOURCE) == "events":
        raise ConfigError(
            f"{_table(side)} were made of all events (`attributes.{side}s.source: events`), so features know what is "
            f"held out: take attributes from files, leave {side}s out of train.features, or {way_out}"
        )


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


def kept_prior(context: Context, row: Row) -> FeaturePrior | None:
    """Return the prior of users that the models row keeps, to judge the model by; None where it has none."""
    own = kept_features(context, row, "user")
    if own is None:
        return None
    flat = np.frombuffer(row["user_feature_factors"], np.float32)
    strength = np.array(json.loads(row["features"])["strength"])
    return _prior(context, "user", own, flat.reshape(own.vocabulary.n_columns, -1), strength)


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
    return FeaturePrior(own, weights, strength, answers)


def names_of(settings: FeatureSettings, side: Side) -> list[str]:
    """Return the attributes that the settings name of one side."""
    return list(dict.fromkeys(settings.users if side == "user" else settings.items))


def _table(side: Side) -> str:
    return f"{side}_attributes"


def _read(context: Context, side: Side, names: list[str]) -> tuple[DataFrame, int]:
    """Return (id, texts) of a side's attributes, and the version of the table that they are read from; −1 where there
    is none yet."""
    pinned, version = context.read_known(_table(side))
    return attribute_texts(pinned, names), version
