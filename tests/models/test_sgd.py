"""Training by stochastic gradients: worked examples, laws of the strata, the same bits everywhere, when it stops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from benchmarks import sgd as benchmark
from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.evaluation.song_table import PEOPLE, SONGS, TABLE, song_ratings
from factorlake.kernels.hashing import hash_ids
from factorlake.models.fit_sgd import LocalFittedSgd, fit_sgd
from factorlake.models.sgd import SgdTraceRow
from factorlake.models.sgd_cells import cells_of_group, chosen_for_validation, group_ptr, stratum
from factorlake.models.sgd_parameters import SgdParameters
from factorlake.spark.exchange import Exchange
from factorlake.spark.sgd import fit_sgd_pairs
from tests.models.problems import problem_of, random_ids

PLAIN = SgdParameters(rank=5, epochs=4, validation_share=0.1, learning_rate=0.02)
ADAM = replace(PLAIN, optimizer="adam", scaling="minmax", learning_rate=0.005, batch_size=8)
CASES = [
    pytest.param(PLAIN, id="sgd"),
    pytest.param(replace(PLAIN, biases=False, double_precision=True, strata=3, decay=0.1), id="sgd, float64"),
    pytest.param(ADAM, id="adam"),
    pytest.param(replace(ADAM, rank=16, strata=1, tolerance=None), id="adam, one stratum"),
]


def positions(fitted: LocalFittedSgd, users: list[str], items: list[str]) -> tuple[NDArray[np.int64], ...]:
    """The rows of some ids, −1 where one is unknown."""
    return pd.Index(fitted.user_ids).get_indexer(pd.Index(users)), pd.Index(fitted.item_ids).get_indexer(
        pd.Index(items)
    )


def bits(fitted: LocalFittedSgd) -> list[bytes]:
    model = fitted.model
    told = [
        [row.loss, row.training_rmse, row.training_mae, row.validation_rmse or 0, row.validation_mae or 0]
        for row in model.trace
    ]
    arrays = [model.user_factors, model.item_factors, model.user_biases, model.item_biases]
    return [
        *(one.tobytes() for one in arrays if one is not None),
        np.array([model.mean, model.epochs, *model.bounds]).tobytes(),
        np.array(told).tobytes(),
    ]


def test_the_song_table_has_a_row_for_each_person_and_a_column_for_each_song() -> None:
    assert np.array(TABLE).shape == (len(PEOPLE), len(SONGS)) == (4, 12)
    people, songs, values = song_ratings()
    assert len(people) == len(songs) == len(values) == 39
    assert dict(zip(zip(people, songs, strict=True), values, strict=True))["Hermione", "Clair de Lune"] == 5


def test_songs_are_learnt_to_a_tenth_of_a_star_and_als_ends_lower() -> None:
    found = benchmark.songs()
    # Small factors tell next to nothing at first: the loss is that of the ratings themselves, less a little by chance.
    assert found["observed_loss"]["0"] == pytest.approx(float(np.sum(np.square(TABLE))), rel=0.02)
    assert found["observed_loss"]["1000"] < 0.1
    assert found["largest_error"] < 0.1
    # The same objective: ALS with the ridge by count and half of λ.
    assert found["als"]["regularization"] == benchmark.SONG_PARAMETERS.regularization / 2
    assert found["als"]["loss"] < found["loss"]


def test_the_loss_of_the_trace_is_the_objective_of_the_model() -> None:
    users, items, values = random_ids(30, 20, 200, seed=3, rating="stars")
    assert values is not None
    for scaling, unit in ("none", 1.0), ("minmax", 4.0):
        parameters = replace(PLAIN, scaling=scaling, validation_share=0, bias_regularization=0.3)  # type: ignore[arg-type]
        fitted = fit_sgd(users, items, values, parameters)
        model = fitted.model
        u, i = positions(fitted, users, items)
        x, y = model.user_factors[u].astype(np.float64), model.item_factors[i].astype(np.float64)
        assert model.user_biases is not None
        assert model.item_biases is not None
        told = model.mean + model.user_biases[u] + model.item_biases[i].astype(np.float64) + np.sum(x * y, axis=1)
        errors = values - told
        # Each rating has its share of the ridge: with the λ that ALS would have, a row's counts as often as it rated.
        assert model.regularization == PLAIN.regularization * unit / 2
        ridge = model.regularization * (np.sum(x**2) + np.sum(y**2))
        ridge += 0.15 * (np.sum(model.user_biases[u] ** 2) + np.sum(model.item_biases[i] ** 2))
        # Rows are rounded to float32 once more where ratings were scaled.
        assert model.kept.observed_loss == pytest.approx(np.sum(errors**2), rel=1e-5)
        assert model.kept.loss == pytest.approx(np.sum(errors**2) + ridge, rel=1e-5)
        assert model.kept.training_rmse == pytest.approx(
            np.sqrt(np.mean((fitted.predict(u, i) - values) ** 2)), rel=1e-5
        )


@pytest.mark.parametrize("strata", [1, 2, 5, 8])
def test_cells_of_a_stratum_share_no_row_and_strata_hold_every_rating_once(strata: int) -> None:
    problem = problem_of(*random_ids(50, 31, 600, seed=strata, rating="stars"))
    item_hashes = np.concatenate([block.hashes for block in problem.item_blocks])
    user_ptr, item_ptr = group_ptr(problem.n_users, strata), group_ptr(problem.n_items, strata)
    parameters = replace(PLAIN, strata=strata, validation_share=0.3)
    cells = [
        cells_of_group(problem.user_blocks, user_ptr[g], user_ptr[g + 1], item_ptr, item_hashes, parameters)
        for g in range(strata)
    ]
    seen: Counter[tuple[int, int, float, bool]] = Counter()
    for number in range(strata):
        users: set[int] = set()
        items: set[int] = set()
        for g, h in stratum(number, strata):
            own_users: set[int] = set()
            own_items: set[int] = set()
            for held_out, part in ((False, cells[g][h].training), (True, cells[g][h].held_out)):
                u, i = part.rows + user_ptr[g], part.columns + item_ptr[h]
                own_users.update(u.tolist())
                own_items.update(i.tolist())
                seen.update((int(a), int(b), float(r), held_out) for a, b, r in zip(u, i, part.values, strict=True))
            assert not users & own_users
            assert not items & own_items
            users |= own_users
            items |= own_items
    held = chosen_for_validation(
        np.concatenate([block.hashes for block in problem.user_blocks])[problem.users],
        item_hashes[problem.items],
        parameters,
    )
    assert problem.values is not None
    rated = zip(problem.users, problem.items, problem.values, held, strict=True)
    assert seen == Counter((int(u), int(i), float(r), bool(h)) for u, i, r, h in rated)
    # 600 draws of 0.3 lie within 4 standard deviations of 180.
    assert abs(int(held.sum()) - 180) < 45


@pytest.mark.parametrize("parameters", CASES)
def test_any_number_of_threads_and_any_order_of_input_give_the_same_bits(parameters: SgdParameters) -> None:
    users, items, values = random_ids(400, 150, 6000, seed=4, rating="stars")
    assert values is not None
    one = bits(fit_sgd(users, items, values, parameters))
    assert bits(fit_sgd(users, items, values, parameters, threads=2)) == one
    order = np.random.default_rng(6).permutation(len(users))
    shuffled = fit_sgd([users[n] for n in order], [items[n] for n in order], values[order], parameters, threads=3)
    assert bits(shuffled) == one
    assert bits(fit_sgd(users, items, values, replace(parameters, seed=8))) != one


def pairs_frame(spark: SparkSession, users: list[str], items: list[str], values: NDArray[np.float32]) -> DataFrame:
    table = pd.DataFrame({"user_id": users, "item_id": items, "value": values})
    return spark.createDataFrame(table).repartition(3)


@pytest.mark.spark
@pytest.mark.parametrize(
    ("parameters", "n_users", "strata"),
    [pytest.param(PLAIN, 300, 2, id="sgd"), pytest.param(ADAM, 4, 5, id="adam, a group without users")],
)
def test_spark_trains_the_same_bits(
    spark: SparkSession, tmp_path: Path, parameters: SgdParameters, n_users: int, strata: int
) -> None:
    users, items, values = random_ids(n_users, 100, n_users * 50, seed=5, rating="stars")
    assert values is not None
    parameters = replace(parameters, epochs=2, strata=strata)
    told: list[SgdTraceRow] = []
    here = fit_sgd(users, items, values, parameters, on_epoch=told.append)
    assert tuple(told) == here.model.trace
    frame = pairs_frame(spark, users, items, values)
    for plan in ("local", "spark"):
        fitted = fit_sgd_pairs(spark, frame, parameters, workspace=str(tmp_path), plan=plan)
        assert fitted.plan == plan
        assert fitted.n_observed == len(values)
        names = [
            [row["id"] for row in side.frame.orderBy("position").collect()] for side in (fitted.users, fitted.items)
        ]
        assert bits(LocalFittedSgd(names[0], names[1], fitted.model)) == bits(here)
        assert names == [here.user_ids, here.item_ids]
        assert np.array_equal(fitted.model.users.at(np.array([3, 1])), here.model.users.at(np.array([3, 1])))
        fitted.release()
        assert not list(tmp_path.rglob("*.np?"))


@pytest.mark.spark
def test_rows_of_earlier_epochs_do_not_stay_on_the_disk(spark: SparkSession, tmp_path: Path) -> None:
    users, items, values = random_ids(60, 40, 500, seed=5, rating="stars")
    assert values is not None
    parameters = replace(PLAIN, strata=2, epochs=3, validation_share=0.2)
    files: list[int] = []

    def count(_: SgdTraceRow) -> None:
        files.append(len(list(tmp_path.rglob("*.npz"))))

    frame = pairs_frame(spark, users, items, values)
    fit_sgd_pairs(spark, frame, parameters, workspace=str(tmp_path), plan="spark", on_epoch=count).release()
    # Two groups of each side, of the present rows and of the best.
    assert len(files) == 4
    assert max(files) <= 8


@pytest.mark.spark
def test_without_a_shared_folder_the_driver_trains_or_a_way_out_is_named(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "_workers_see", lambda *_: False)
    users, items, values = random_ids(60, 40, 500, seed=5, rating="stars")
    assert values is not None
    frame = pairs_frame(spark, users, items, values)
    fitted = fit_sgd_pairs(spark, frame, PLAIN, workspace=str(tmp_path))
    assert fitted.plan == "local"
    names = [[row["id"] for row in side.frame.orderBy("position").collect()] for side in (fitted.users, fitted.items)]
    assert bits(LocalFittedSgd(names[0], names[1], fitted.model)) == bits(fit_sgd(users, items, values, PLAIN))
    with pytest.raises(ConfigError, match="take plan local"):
        fit_sgd_pairs(spark, frame, PLAIN, workspace=str(tmp_path), plan="spark")
    monkeypatch.setattr("factorlake.spark.sgd.DRIVER_MEMORY", 1 << 10)
    with pytest.raises(ConfigError, match="set plan local"):
        fit_sgd_pairs(spark, frame, PLAIN, workspace=str(tmp_path))


def test_the_star_matrix_is_learnt_as_fast_as_promised() -> None:
    found = benchmark.stars()
    assert found["shape"] == [1000, 500]
    assert found["user_factors"] == [1000, 10]
    assert found["item_factors"] == [500, 10]
    for epoch, most in ((1, 1.20), (5, 0.75), (10, 0.45), (15, 0.30), (20, 0.25)):
        assert found["training_rmse"][epoch] <= most
    # The held-out error falls too, below that of the mean, which is the standard deviation.
    assert found["held_out_rmse"][20] < 0.9 * found["held_out_rmse"][0]


def test_adam_ends_below_the_bias_model_on_movielens(data_dir: Path) -> None:
    ratings = benchmark.read_movielens(data_dir, "ml-100k")
    found = benchmark.adam_curve(ratings, benchmark.ADAM["ml-100k"])
    baseline = benchmark.baselines(ratings, benchmark.ADAM["ml-100k"])
    assert found["kept"]["validation_mae"] < baseline["bias_mae"] < baseline["mean_mae"]
    # It ran until its validation loss turned.
    assert found["stopped"] == "metric"
    assert found["epochs"] >= 20


def test_the_best_epoch_is_kept_and_training_stops_after_epochs_without_progress() -> None:
    users, items, values = random_ids(40, 30, 400, seed=2, rating="stars")
    # Random stars: a model that can learn them by heart soon does worse on others.
    parameters = SgdParameters(rank=8, epochs=200, learning_rate=0.05, validation_share=0.2, patience=4)
    model = fit_sgd(users, items, values, parameters).model
    losses = [row.validation_loss for row in model.trace]
    assert model.stopped == "metric"
    assert model.epochs == int(np.argmin(losses))  # type: ignore[arg-type]
    assert len(model.trace) == model.epochs + 4 + 1
    # The same rows as those of a training that ends there.
    there = fit_sgd(users, items, values, replace(parameters, epochs=max(model.epochs, 1), tolerance=None)).model
    if model.epochs:
        assert np.array_equal(model.user_factors, there.user_factors)
        assert np.array_equal(model.item_biases, there.item_biases)  # type: ignore[arg-type]
    every = fit_sgd(users, items, values, replace(parameters, epochs=30, tolerance=None)).model
    assert every.stopped == "epochs"
    assert len(every.trace) == 31
    assert every.epochs == model.epochs


def test_without_validation_every_epoch_runs_and_the_last_is_kept() -> None:
    users, items, values = random_ids(40, 30, 400, seed=2, rating="stars")
    model = fit_sgd(users, items, values, replace(PLAIN, validation_share=0, epochs=7)).model
    assert (model.epochs, model.stopped, len(model.trace)) == (7, "epochs", 8)
    assert model.kept.validation_mae is None
    assert model.trace[7].loss < model.trace[0].loss


@pytest.mark.parametrize("scaling", ["none", "minmax"])
def test_divergence_says_to_lower_the_learning_rate(scaling: str) -> None:
    users, items, values = random_ids(40, 30, 400, seed=2, rating="stars")
    parameters = replace(PLAIN, learning_rate=5.0, epochs=50, scaling=scaling)  # type: ignore[arg-type]
    with pytest.raises(NumericalError, match=r"training diverged: .* lower the learning_rate, which is 5"):
        fit_sgd(users, items, values, parameters)


def test_predictions_of_scaled_ratings_stay_within_their_bounds() -> None:
    users, items, values = random_ids(40, 30, 400, seed=2, rating="stars")
    fitted = fit_sgd(users, items, values, replace(ADAM, epochs=60, validation_share=0))
    u, i = np.divmod(np.arange(len(fitted.user_ids) * len(fitted.item_ids)), len(fitted.item_ids))
    model = fitted.model
    assert model.bounds == (1, 5)
    products = np.sum(model.user_factors[u] * model.item_factors[i], axis=1)
    free = model.mean + products + model.user_biases[u] + model.item_biases[i]  # type: ignore[index]
    assert free.min() < 1
    assert free.max() > 5
    # Factors are float32.
    np.testing.assert_allclose(fitted.predict(u, i), np.clip(free, 1, 5), atol=1e-5)
    assert fitted.predict(u, i).min() >= 1
    assert fitted.predict(u, i).max() <= 5


def test_an_unknown_id_adds_nothing_to_the_mean() -> None:
    people, songs, values = song_ratings()
    fitted = fit_sgd(people, songs, values, replace(PLAIN, validation_share=0))
    assert fitted.model.user_biases is not None
    told = fitted.predict(np.array([-1, 2]), np.array([-1, -1]))
    assert told[0] == pytest.approx(np.mean(values), rel=1e-7)
    assert told[1] == told[0] + fitted.model.user_biases[2]


def test_no_rating_is_refused() -> None:
    with pytest.raises(DataRefusedError, match="no rating"):
        fit_sgd([], [], np.empty(0, np.float32), PLAIN)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_rating_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(DataRefusedError, match="row 1"):
        fit_sgd(["a", "b"], ["x", "y"], np.array([1, bad], np.float32), PLAIN)


def test_a_share_that_leaves_nothing_to_train_on_is_refused() -> None:
    held = [
        one
        for one in ("a", "b", "c", "d", "e", "f", "g", "h")
        if chosen_for_validation(hash_ids([one]), hash_ids(["x"]), replace(PLAIN, validation_share=0.5))[0]
    ]
    with pytest.raises(DataRefusedError, match="lower the validation_share"):
        fit_sgd(held, ["x"] * len(held), None, replace(PLAIN, validation_share=0.5))


@pytest.mark.parametrize("parameters", CASES)
def test_one_rating_is_learnt(parameters: SgdParameters) -> None:
    parameters = replace(parameters, validation_share=0, epochs=300, regularization=0, learning_rate=0.05)
    fitted = fit_sgd(["a"], ["x"], np.array([3.5], np.float32), parameters)
    assert fitted.predict(np.array([0]), np.array([0]))[0] == pytest.approx(3.5, abs=1e-3)


@pytest.mark.parametrize("parameters", CASES)
def test_equal_ratings_are_learnt(parameters: SgdParameters) -> None:
    users, items, _ = random_ids(20, 15, 100, seed=1)
    parameters = replace(parameters, validation_share=0, epochs=200, regularization=0, decay=0)
    fitted = fit_sgd(users, items, np.full(100, 2.5, np.float32), parameters)
    told = fitted.predict(*positions(fitted, users, items))
    # Held within the only rating there is, they are that rating.
    assert told == pytest.approx(2.5, abs=0 if parameters.scaling == "minmax" else 0.1)


def test_ratings_of_one_are_ratings() -> None:
    users, items, _ = random_ids(20, 15, 100, seed=1)
    ones = fit_sgd(users, items, np.ones(100, np.float32), PLAIN)
    assert bits(fit_sgd(users, items, None, PLAIN)) == bits(ones)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0), ("learning_rate", 0), ("learning_rate", np.inf), ("regularization", -1), ("epochs", 0),
        ("batch_size", 0), ("beta1", 1), ("beta2", -0.1), ("epsilon", 0), ("init_scale", 0), ("validation_share", 1),
        ("patience", 0), ("strata", 0), ("strata", 1025), ("decay", -1), ("optimizer", "lbfgs"), ("scaling", "z"),
        ("learning_rate", np.nan), ("bias_regularization", np.nan),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: float | str) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(PLAIN, **{name: value})  # type: ignore[arg-type]
