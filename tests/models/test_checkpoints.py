"""Training that was cut off goes on from its checkpoint and ends with the bits of one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factorlake.models.als import train
from factorlake.models.checkpoints import Checkpoints
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.prior import Features
from factorlake.models.trained import Snapshot, TraceRow, TrainedModel
from tests.faults.dying import Killed, die_in
from tests.models.problems import EXPLICIT, FROBENIUS, MODERN, SPARK, Problem, problem_of, random_ids
from tests.models.test_same_numbers import bits

EPOCHS = 6
CASES = [
    pytest.param(MODERN, "one", id="modern"),
    pytest.param(replace(SPARK, solver="exact"), "signed", id="Spark, exact"),
    pytest.param(EXPLICIT, "stars", id="explicit with biases"),
    pytest.param(replace(MODERN, rank=20, solver="subspace"), "one", id="subspace"),
    pytest.param(FROBENIUS, "stars", id="Frobenius"),
]


def problem(rating: str) -> Problem:
    return problem_of(*random_ids(120, 40, 1500, seed=4, rating=rating))


def fitted(
    known: Problem,
    parameters: AlsParameters,
    checkpoints: Checkpoints | None = None,
    die: int | None = None,
    metric: Callable[[int, Snapshot[ArrayRows]], float] | None = None,
    with_features: bool = False,
) -> TrainedModel[ArrayRows]:
    with LocalPlan(known.user_blocks, known.item_blocks, parameters, threads=1) as plan:
        features = None
        if with_features:
            rng = np.random.default_rng(2)
            drawn = (rng.integers(0, 2, (n, 3)).astype(np.float32) for n in (known.n_users, known.n_items))
            features = Features(plan.hold("user", next(drawn)), plan.hold("item", next(drawn)))
        look = None if die is None else die_in(die)
        return train(plan, parameters, look, validate=metric, features=features, checkpoints=checkpoints)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_training_that_died_in_any_epoch_goes_on_to_the_same_bits(
    tmp_path: Path, parameters: AlsParameters, rating: str
) -> None:
    known, parameters = problem(rating), replace(parameters, epochs=EPOCHS)
    undisturbed = fitted(known, parameters)
    for epoch in range(1, EPOCHS + 1):
        told: list[str] = []
        checkpoints = Checkpoints(str(tmp_path / str(epoch)), 0.0, told.append)
        with pytest.raises(Killed):
            fitted(known, parameters, checkpoints, die=epoch)
        again: list[TraceRow] = []
        with LocalPlan(known.user_blocks, known.item_blocks, parameters, threads=2) as plan:
            resumed = train(plan, parameters, again.append, checkpoints=checkpoints)
        assert bits(resumed) == bits(undisturbed)
        # Nothing that was done is done again but the epoch that was under way.
        assert min(row.epoch for row in again) == epoch
        assert told == ([f"training goes on after epoch {epoch - 1}"] if epoch > 1 else [])


def test_training_that_dies_an_epoch_later_each_time_ends_as_one_that_never_died(tmp_path: Path) -> None:
    known, parameters = problem("one"), replace(MODERN, epochs=EPOCHS)
    checkpoints = Checkpoints(str(tmp_path), 0.0)
    for epoch in range(1, EPOCHS + 1):
        with pytest.raises(Killed):
            fitted(known, parameters, checkpoints, die=epoch)
    assert bits(fitted(known, parameters, checkpoints)) == bits(fitted(known, parameters))
    assert [one.name for one in tmp_path.iterdir()] == [f"epoch-{EPOCHS:06d}"]


def test_the_best_epoch_and_what_early_stopping_counts_go_on_too(tmp_path: Path) -> None:
    """The third epoch is best; with a patience of two the fifth is the last, whenever training died."""
    known = problem("one")
    parameters = replace(MODERN, epochs=8, tolerance=1e-4, patience=2)
    values = {1: 0.1, 2: 0.2, 3: 0.5, 4: 0.3, 5: 0.4, 6: 0.9}

    def metric(epoch: int, _: Snapshot[ArrayRows]) -> float:
        return values[epoch]

    undisturbed = fitted(known, parameters, metric=metric)
    assert (undisturbed.epochs, undisturbed.stopped) == (3, "metric")
    for epoch in (3, 4, 5):
        checkpoints = Checkpoints(str(tmp_path / str(epoch)), 0.0)
        with pytest.raises(Killed):
            fitted(known, parameters, checkpoints, die=epoch, metric=metric)
        resumed = fitted(known, parameters, checkpoints, metric=metric)
        assert (resumed.epochs, resumed.stopped) == (3, "metric")
        assert bits(resumed) == bits(undisturbed)


def test_priors_from_features_go_on_too(tmp_path: Path) -> None:
    known, parameters = problem("one"), replace(MODERN, epochs=EPOCHS, relaxation=1.0)
    undisturbed = fitted(known, parameters, with_features=True)
    checkpoints = Checkpoints(str(tmp_path), 0.0)
    with pytest.raises(Killed):
        fitted(known, parameters, checkpoints, die=4, with_features=True)
    resumed = fitted(known, parameters, checkpoints, with_features=True)
    assert bits(resumed) == bits(undisturbed)
    assert resumed.user_feature_weights is not None
    assert undisturbed.user_feature_weights is not None
    assert resumed.user_feature_weights.tobytes() == undisturbed.user_feature_weights.tobytes()


def test_a_checkpoint_of_other_settings_or_other_ratings_is_not_gone_on_from(tmp_path: Path) -> None:
    known, parameters = problem("one"), replace(MODERN, epochs=EPOCHS)
    checkpoints = Checkpoints(str(tmp_path), 0.0)
    with pytest.raises(Killed):
        fitted(known, parameters, checkpoints, die=4)
    others = [(known, replace(parameters, seed=9)), (problem_of(*random_ids(120, 40, 1499, 4, "one")), parameters)]
    for ratings, settings in others:
        told: list[str] = []
        again = fitted(ratings, settings, Checkpoints(str(tmp_path), 1e9, told.append))
        assert bits(again) == bits(fitted(ratings, settings))
        assert told == []


@pytest.mark.parametrize("harm", ["rows", "state", "partial"])
def test_a_damaged_checkpoint_costs_its_epochs_and_changes_nothing(tmp_path: Path, harm: str) -> None:
    known, parameters = problem("one"), replace(MODERN, epochs=EPOCHS)
    checkpoints = Checkpoints(str(tmp_path), 0.0)
    with pytest.raises(Killed):
        fitted(known, parameters, checkpoints, die=4)
    (kept,) = tmp_path.iterdir()
    if harm == "rows":
        rows = kept / "last-item.npy"
        rows.write_bytes(rows.read_bytes()[:-40])
    elif harm == "state":
        (kept / "state.json").write_text(json.dumps({"epoch": 3})[:-4])
    else:
        kept.rename(kept.with_suffix(".partial"))
    assert bits(fitted(known, parameters, checkpoints)) == bits(fitted(known, parameters))


def test_checkpoints_are_as_far_apart_as_asked_and_go_when_cleared(tmp_path: Path) -> None:
    known, parameters = problem("one"), replace(MODERN, epochs=3)
    rare = Checkpoints(str(tmp_path / "rare"), 1e9)
    fitted(known, parameters, rare)
    assert not (tmp_path / "rare").exists()
    each = Checkpoints(str(tmp_path / "each"), 0.0)
    fitted(known, parameters, each)
    assert (tmp_path / "each" / "epoch-000003" / "state.json").exists()
    each.clear()
    assert not (tmp_path / "each").exists()
    each.clear()
