"""A model with features through the jobs: who gets factors and lists, what is kept, and when it is another model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from pyspark.sql import SparkSession

from factorlake.config.loader import build
from factorlake.config.settings import Settings, TrainSettings
from factorlake.models.features import Vocabulary
from factorlake.pipelines import publish, recommend, train
from factorlake.pipelines.features import read_attributes
from factorlake.pipelines.models import chosen_model
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.judged_lake import COLD, Attributes, JudgedLake, K, figures, new_lake
from tests.reference.contents import read_table

pytestmark = pytest.mark.spark

FEATURES = {"users": ["segment"], "items": ["category"]}
NEW_ITEMS = {"new rock": "rock", "new jazz": "jazz", "new polka": "polka"}


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> JudgedLake:
    """A model of the known log's attributes, with items and users among them that nobody has met."""
    users: Attributes = [{"id": "newcomer", "segment": "north"}, {"id": "nobody"}]
    items: Attributes = [{"id": one, "category": genre} for one, genre in NEW_ITEMS.items()]
    root = str(tmp_path_factory.mktemp("features") / "lake")
    return new_lake(spark, root, silent=(users, items), features=FEATURES)


def with_features(settings: Settings, features: dict[str, Any] | None, **more: Any) -> Settings:
    """The settings with other features, and other train settings beside."""
    now = settings.model_dump(by_alias=True, mode="json")
    return build({**now, "train": {**now["train"], "features": features, **more}})


def sides(lake: JudgedLake) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {"user": {}, "item": {}}
    for row in read_table(lake.context.lake.candidate(lake.model()["model_version"], "factors")).to_pylist():
        found[row["side"]][row["id"]] = row
    return found


def placed(row: dict[str, Any], side: str, texts: list[str | None]) -> NDArray[np.float64]:
    """Where a row's features put it, from what the models table keeps: the sum of the rows of its columns."""
    vocabulary = Vocabulary.from_json(json.loads(row["features"])[side])
    weights = np.frombuffer(row[f"{side}_feature_factors"], np.float32).reshape(vocabulary.n_columns, -1)
    columns = [0, *(vocabulary.columns().index(f"{vocabulary.names[0]}={text}") for text in texts if text is not None)]
    return weights.astype(np.float64)[columns].sum(axis=0)


def test_ids_without_events_get_factors_from_their_features(lake: JudgedLake) -> None:
    row, found = lake.model(), sides(lake)
    assert set(NEW_ITEMS) <= set(found["item"])
    for item, genre in NEW_ITEMS.items():
        assert found["item"][item]["n_observed"] == 0
        # Published in float32.
        np.testing.assert_allclose(found["item"][item]["factor"], placed(row, "item", [genre]), rtol=1e-6, atol=1e-7)
    for user, segment in (("newcomer", "north"), ("nobody", None)):
        assert found["user"][user]["n_observed"] == 0
        np.testing.assert_allclose(found["user"][user]["factor"], placed(row, "user", [segment]), rtol=1e-6, atol=1e-7)
    # The model itself counts those that it was trained on.
    assert row["n_items"] == len(found["item"]) - len(NEW_ITEMS)
    gram = np.frombuffer(row["gram"], np.float64).reshape(row["rank"], row["rank"])
    trained = np.array([one["factor"] for one in found["item"].values() if one["n_observed"]])
    np.testing.assert_allclose(trained.T @ trained, gram, rtol=1e-6)


def test_they_are_listed_and_get_lists(lake: JudgedLake) -> None:
    assert recommend.run(lake.context).exit_code == 0
    lists = read_table(lake.context.lake.candidate(lake.model()["model_version"], "lists")).to_pylist()
    mine = [row for row in lists if row["user_id"] == "newcomer"]
    assert {row["source"] for row in mine} == {"model"}
    found = sides(lake)
    scores = {
        item: float(np.dot(np.float32(one["factor"]), np.float32(found["user"]["newcomer"]["factor"])))
        for item, one in found["item"].items()
    }
    best = sorted(scores, key=lambda item: -scores[item])[: len(mine)]
    assert [row["item_id"] for row in sorted(mine, key=lambda row: row["rank"])] == best
    assert {row["item_id"] for row in lists} & set(NEW_ITEMS)


def test_other_splits_train_it_anew(lake: JudgedLake) -> None:
    result, rows = lake.judge(split="hash", test_share=0.2, neighbours=0)
    assert result.exit_code == 0
    assert ("model", f"ndcg@{K}") in figures(rows)


def test_the_published_model_answers_cold_users_and_by_its_own_columns(lake: JudgedLake) -> None:
    assert recommend.run(lake.context).exit_code in (0, 99)
    assert publish.run(lake.context, force=True).exit_code == 0
    items = read_table(lake.context.lake.published("item_factors", "live")).to_pylist()
    assert set(NEW_ITEMS) <= {row["item_id"] for row in items}
    # Another model, judged beside the live one.
    settings = lake.context.settings
    other = JudgedLake(replace(lake.context, settings=with_features(settings, None)), lake.log)
    assert train.run(other.context).exit_code == 0
    assert other.model()["features"] is None
    assert not set(NEW_ITEMS) & set(sides(other)["item"])
    _, rows = other.judge(neighbours=0)
    assert ("live", f"ndcg@{K}") in figures(rows)
    cold = figures(rows, "cold")
    assert cold["live", f"ndcg@{K}"][3] == cold["popularity", f"ndcg@{K}"][3] <= len(COLD)
    assert ("model", f"ndcg@{K}") not in cold


def test_a_model_is_another_one_when_its_attributes_change_and_only_then(lake: JudgedLake) -> None:
    features = {"items": ["category"], "silent_items": False}
    settings = with_features(lake.context.settings, features, epochs=1)
    made = JudgedLake(replace(lake.context, settings=settings), lake.log)
    context = made.context
    path = context.lake.shared("item_attributes")
    pinned, version = read_attributes(context), delta_io.version(context.spark, path)
    before = pinned.print()
    first = train.run(context)
    assert first.exit_code == 0
    # What was read is told beside the other inputs; of users nothing is read.
    assert first.versions["item_attributes"] == version
    assert "user_attributes" not in first.versions
    users = context.lake.shared("user_attributes")
    context.append_rows([{"id": "x", "segment": "north"}], users, SCHEMAS["user_attributes"])
    assert train.run(context).exit_code == 99
    context.append_rows([{"id": "new", "category": "rock"}], path, SCHEMAS["item_attributes"])
    assert pinned.print() == before != read_attributes(context).print()
    # No model has these attributes yet.
    assert chosen_model(context, None)["model_version"] == first.model_version
    second = train.run(context)
    assert (second.exit_code, second.versions["item_attributes"]) == (0, version + 1)
    row = made.model()
    # No features of users, and silent items are left out.
    assert row["user_feature_factors"] is None
    assert json.loads(row["features"])["user"] is None
    assert not {"new", *NEW_ITEMS} & set(sides(made)["item"])
    assert "x" not in sides(made)["user"]
    assert chosen_model(context, None)["model_version"] == row["model_version"] != first.model_version
    # Attributes that are what they were have the model that they had.
    context.overwrite(delta_io.read(context.spark, path, version), path, SCHEMAS["item_attributes"])
    again = train.run(context)
    assert (again.exit_code, again.model_version) == (99, first.model_version)
    assert chosen_model(context, None)["model_version"] == first.model_version


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"features": {}}, "name no attribute"),
        ({"features": {"items": ["genre"], "categories": ["gerne"]}}, "'gerne'"),
        ({"features": {"items": ["genre"], "regularization": 0}}, "greater than 0"),
        ({"features": {"items": ["genre"], "regularization": math.inf}}, "finite"),
        ({"features": {"items": ["genre"], "strength": math.inf}}, "finite"),
        ({"features": {"items": ["genre"]}, "nonnegative": True}, "either sign"),
        ({"item_regularization": 0.0}, "item_regularization greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        TrainSettings.model_validate(wrong)
