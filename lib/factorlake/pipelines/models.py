"""Which model a job works on, and how its settings become the engine's numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

import factorlake
from factorlake.config.settings import Settings, SgdSettings, TrainSettings
from factorlake.errors import ConfigError
from factorlake.pipelines.context import Context
from factorlake.pipelines.features import read_attributes
from factorlake.spark.pairs import PairRule, combine_pairs, newest_time, select_events
from factorlake.tables import delta_io, registry

Trainer = Literal["als", "sgd"]
TRAINERS: tuple[Trainer, ...] = ("als", "sgd")
# Settings that say how a model is computed and not which: the same model in every plan.
NOT_DECIDING = ("plan", "threads", "checkpoint_seconds")
# With α: α|r| of a decayed pair from which on it is observed. Its target 1 + 1/(α|r|) has no bound as the pair fades,
# while its weight 1 + α|r| comes down to that of an unobserved pair.
LEAST_CONFIDENCE = 2.0**-20
# What `sgd` takes from the train settings: how events become ratings, what is held out, the ridge of users' biases.
KEPT_BY_SGD = (
    *("event_weights", "use_value", "combine", "value_scaling", "value_scale", "holdout_days", "bias_regularization"),
    *NOT_DECIDING,
)


def chosen_model(context: Context, version: str | None) -> Row:
    """Return the models row of ``version``, or of the model of these settings: of those with features the one trained
    last on the attributes as they are, if there is one, else the one trained last.

    ConfigError when there is none. Models of other settings are experiments that must be named to be taken.
    """
    if version is not None:
        row = registry.model(context.spark, context.lake, version)
        if row is None:
            raise ConfigError(f"there is no model {version!r}; `factorlake status` lists the models")
        if row["state"] == registry.EXPIRED:
            raise ConfigError(
                f"the candidate of model {version} was removed by `factorlake maintain`, which keeps the last "
                "maintain.keep_models and those that publish.keep_sets spares: train it again with its settings"
            )
        return row
    trained = registry.trained_models(context.spark, context.lake)
    if not trained:
        raise ConfigError("no model has been trained yet; run `factorlake train` first")
    own = {trainer: as_trained(context, trainer) for trainer in TRAINERS}
    found = [
        (row, trainer)
        for row in trained
        for trainer, here in own.items()
        if row["model_version"] == model_version(here, row["as_of"], row["fingerprint"], trainer)
    ]
    if found:
        # Attributes may be again what they were before the model trained last.
        now = {trainer: read_attributes(here).print() for trainer, here in own.items()}
        of_now = [row for row, trainer in found if row["fingerprint"].endswith(now[trainer])]
        return chosen_model(context, (of_now or [found[0][0]])[0]["model_version"])
    raise ConfigError(
        "no model has been trained under these settings; run `factorlake train` with them, or take the newest of "
        f"other settings by --model {trained[0]['model_version']}"
    )


def as_trained(context: Context, trainer: Trainer) -> Context:
    """Return the context with the train settings that a trainer's models are folded in and judged by.

    Those of `sgd` follow from its own: the explicit objective at the same rank, with a ridge by count, since stochastic
    gradients shrink a row with each of its ratings. λ is known only with the ratings' scale (``settings_of_model``).
    """
    if trainer == "als":
        return context
    settings = context.settings
    kept = settings.train.model_dump(include=set(KEPT_BY_SGD))
    train = TrainSettings(
        **kept, objective="explicit", rank=settings.sgd.rank, biases=settings.sgd.biases, early_stopping=None
    )
    return replace(context, settings=settings.model_copy(update={"train": train}))


def settings_of_model(context: Context, trainer: Trainer, regularization: float) -> str:
    """Return what a models row keeps: the train settings with the λ that users are solved with, and the trainer's own
    where it is another than `train`."""
    kept = context.settings.train.model_copy(update={"regularization": regularization}).model_dump(mode="json")
    return json.dumps(kept if trainer == "als" else {**kept, "sgd": context.settings.sgd.model_dump(mode="json")})


def trainer_of(row: Row) -> Trainer:
    """Return what trained the model of a models row."""
    return "sgd" if "sgd" in json.loads(row["settings"]) else "als"


def of_its_settings(context: Context, row: Row) -> Context:
    """Return the context with the train settings and the seed of a model, but this run's plan and threads."""
    now = context.settings
    kept = json.loads(row["settings"])
    sgd = {**kept.pop("sgd", now.sgd.model_dump(mode="json")), "plan": now.sgd.plan}
    here = now.train.model_dump(mode="json", include=set(NOT_DECIDING))
    update = {
        "train": TrainSettings.model_validate({**kept, **here}),
        "sgd": SgdSettings.model_validate(sgd),
        "seed": row["seed"],
    }
    return replace(context, settings=now.model_copy(update=update))


def model_version(context: Context, newest: datetime | None, contents: str, trainer: Trainer = "als") -> str:
    """Return the version that training gives a model of these events under the context's settings: the newest event's
    date and a hash of contents, settings, seed and this package's version."""
    settings = context.settings
    what = {
        "engine": factorlake.__version__,
        "contents": contents,
        "train": settings.train.model_dump(mode="json", exclude=set(NOT_DECIDING)),
        "select": _selection(settings),
        "seed": settings.seed,
    }
    if trainer == "sgd":
        what["sgd"] = settings.sgd.model_dump(mode="json", exclude=set(NOT_DECIDING))
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
    return f"{newest:%Y%m%d}-{digest}" if newest is not None else digest


def _selection(settings: Settings) -> dict[str, Any]:
    told = settings.select.model_dump(mode="json")
    # Not there at all where it is not given: models of before it could be are what they were.
    return told if settings.select.as_of is not None else {name: told[name] for name in told if name != "as_of"}


def pair_rule(settings: Settings) -> PairRule:
    """Return how events combine into ratings under these settings."""
    train = settings.train
    explicit = train.objective == "explicit"
    return PairRule(
        event_weights=dict(train.event_weights),
        use_value=train.use_value or explicit,
        combine=train.combine,
        log_scaling=train.value_scaling == "log",
        keep_zero=explicit,
        log_scale=train.value_scale,
        half_life_days=train.half_life_days,
        faded_below=LEAST_CONFIDENCE / train.alpha if train.alpha is not None else 0.0,
    )


def _known_events(context: Context, version: int | None) -> DataFrame:
    events = delta_io.read(context.spark, context.lake.shared("interactions"), version)
    as_of = context.settings.select.as_of
    return events if as_of is None else events.where(F.col("arrival") <= F.lit(as_of))


def selected_events(context: Context, version: int | None = None) -> DataFrame:
    """Return the accepted events this recommender looks at, at a pinned version of interactions."""
    events = _known_events(context, version)
    select = context.settings.select
    newest = None
    if select.window_days is not None:
        newest = newest_time(events)
    return select_events(events, select.event_types, select.min_value, newest, select.window_days)


def training_pairs(context: Context, events: DataFrame, newest: datetime | None = None) -> DataFrame:
    """Return (user_id, item_id, value) of events under the settings' rule.

    events : all that may be known: their ages are measured from the newest of them, as if there were no later ones.
    newest : its time, where the caller has it.
    """
    return combine_pairs(events, pair_rule(context.settings), newest)


def held_out_truth(context: Context, events: DataFrame) -> DataFrame:
    """Return (user_id, item_id, value) of events that judge.

    They do not decay: whether a held-out pair counts is the same whatever half-life is tried on the known ones.
    """
    return combine_pairs(events, pair_rule(context.settings).without_decay())


def seen_pairs(context: Context, version: int | None, before: Any = None) -> DataFrame:
    """Return the (user_id, item_id) that make an item seen, one row an event; of events up to ``before`` when given."""
    events = _known_events(context, version)
    types = context.settings.recommend.seen_event_types
    if types:
        events = events.where(F.col("event_type").isin(types))
    if before is not None:
        events = events.where(F.col("event_time") <= F.lit(before))
    pairs = events.select("user_id", "item_id")
    if context.settings.recommend.seen == "keep":
        return pairs.where(F.lit(False))
    return pairs
