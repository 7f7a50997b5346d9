"""Trials are judged as a slow oracle judges them, start from each other's factors, and are the same when made again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.splits import hash_split
from factorlake.kernels.hashing import hash_ids
from factorlake.models.als import train
from factorlake.models.fit import PackedRatings, pack_ratings
from factorlake.models.held_out import HeldOutLists, HeldOutMetric, HeldOutRatings
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.search import Proposal, Space, Trial
from factorlake.models.trained import Snapshot
from factorlake.models.trials import PATIENCE, Fold, Outcome, TrialRunner, scales_of, search
from factorlake.models.tuning import check_metric, hashed_ids, held_in_fold, held_out_of, tune_ratings
from tests.reference.planted_tastes import Log, planted_log

IMPLICIT, EXPLICIT = AlsParameters(seed=3), AlsParameters(objective="explicit", seed=3)
SMALL: dict[str, Any] = {"base_rank": 4, "max_rank": 16, "max_epochs": 6, "k": 5, "share": 0.2}


def split_log(log: Log, share: float = 0.2) -> tuple[Log, Log]:
    users, items, values = log
    held = hash_split(hash_ids(users), hash_ids(items), share, seed=3)

    def part(chosen: NDArray[np.bool_]) -> Log:
        told = None if values is None else values[chosen]
        return [u for u, one in zip(users, chosen, strict=True) if one], [
            i for i, one in zip(items, chosen, strict=True) if one
        ], told  # fmt: skip

    return part(~held), part(held)


@contextmanager
def runner_of(
    log: Log, start: AlsParameters, budget: int = 14, refuse: Any = lambda rank: None, threads: int = 1
) -> Iterator[TrialRunner[ArrayRows]]:
    known, held = split_log(log)
    metric: HeldOutMetric = "rmse" if start.objective == "explicit" else "ndcg"
    packed = pack_ratings(*known, start)
    judge = held_out_of(packed, held, metric, 1000).judge(metric, 5, threads)
    with LocalPlan(packed.user_blocks, packed.item_blocks, start, threads) as plan:
        space = Space(start, scales_of(plan), base_rank=4, max_rank=16, max_epochs=6)
        yield TrialRunner([Fold(plan, judge)], space, budget, seed=start.seed, refuse=refuse)


def told(outcome: Outcome) -> tuple[object, ...]:
    """All of an outcome but its time."""
    return outcome.value, outcome.best_epoch, outcome.epochs, outcome.objective, outcome.reason


def random_state(packed: PackedRatings, rank: int, biases: bool, seed: int = 1) -> Snapshot[ArrayRows]:
    rng = np.random.default_rng(seed)
    sides = []
    for ids in (packed.user_ids, packed.item_ids):
        n = len(ids)
        # Halves: sums of products are exact, so that ties are ties.
        rows = rng.integers(-2, 3, (n, rank + biases)).astype(np.float32) / 2
        cuts = np.array([0, n // 3, n // 3, n])
        sides.append(ArrayRows(rows, cuts))
    users, items = sides
    return Snapshot(users, items, rank, 3.25 if biases else 0.0)


@pytest.mark.parametrize("metric", ["ndcg", "recall"])
@pytest.mark.parametrize("at_once", [50_000, 7])
def test_lists_are_judged_as_a_slow_oracle_judges_them(
    metric: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factorlake.models.held_out.ITEMS_AT_ONCE", at_once)
    known, held = split_log(planted_log())
    packed = pack_ratings(*known, IMPLICIT)
    state = random_state(packed, 3, biases=False)
    found = held_out_of(packed, held, metric, 1000).judge(metric, 5)(state)

    seen: dict[str, set[str]] = {}
    truth: dict[str, set[str]] = {}
    for pairs, kept in ((known, seen), (held, truth)):
        for user, item in zip(pairs[0], pairs[1], strict=True):
            kept.setdefault(user, set()).add(item)
    figures = []
    for place, user in enumerate(packed.user_ids):
        wanted = truth.get(user, set()) & set(packed.item_ids)
        if not wanted:
            continue
        scores = state.item_factors.astype(float) @ state.user_factors[place].astype(float)
        order = [n for n in np.argsort(-scores, kind="stable") if packed.item_ids[n] not in seen[user]][:5]
        hits = [packed.item_ids[n] in wanted for n in order]
        gains = sum(1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(5, len(wanted))))
        figures.append(gains / ideal if metric == "ndcg" else sum(hits) / len(wanted))
    assert len(figures) > 50
    assert found == pytest.approx(np.mean(figures), rel=1e-12)


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_ratings_are_judged_as_a_slow_oracle_judges_them(metric: Any) -> None:
    known, held = split_log(planted_log(explicit=True))
    packed = pack_ratings(*known, EXPLICIT)
    state = random_state(packed, 3, biases=True)
    found = held_out_of(packed, held, metric, 1000).judge(metric, 5)(state)
    users, items = packed.user_ids, packed.item_ids
    errors = []
    assert held[2] is not None
    for user, item, rating in zip(held[0], held[1], held[2], strict=True):
        if user in users and item in items:
            x, y = state.users.array[users.index(user)], state.items.array[items.index(item)]
            errors.append(3.25 + float(x[:3] @ y[:3]) + float(x[3] + y[3]) - float(rating))
    wanted = math.sqrt(np.mean(np.square(errors))) if metric == "rmse" else float(np.mean(np.abs(errors)))
    assert found == pytest.approx(-wanted, rel=1e-6)


def test_popularity_is_judged_on_the_same_lists() -> None:
    held = HeldOutLists.of_pairs(np.array([4, 2, 2]), np.array([0, 1, 3]), np.array([2, 9, 4]), np.array([0, 0, 2]))
    np.testing.assert_array_equal(held.users, [2, 4])
    # The most popular are 0, 1, 2, 3: user 2 has 0 and so is listed 1 and 2; user 4 has 2 and is listed 0 and 1.
    assert held.popularity(np.array([9, 8, 7, 6]), "recall", 2) == pytest.approx((0.5 + 1.0) / 2)


def test_at_most_so_many_users_are_judged() -> None:
    known, held = split_log(planted_log())
    packed = pack_ratings(*known, IMPLICIT)
    few = held_out_of(packed, held, "ndcg", 10)
    assert isinstance(few, HeldOutLists)
    assert len(few.users) == 10
    assert np.diff(few.truth_ptr).min() >= 1


def test_values_that_are_not_positive_are_nothing_to_be_found() -> None:
    known: Log = (["a", "a", "b", "b"], ["x", "y", "x", "z"], np.ones(4, np.float32))
    packed = pack_ratings(*known, IMPLICIT)
    held: Log = (["a", "b"], ["z", "y"], np.array([1.0, -1.0], np.float32))
    found = held_out_of(packed, held, "ndcg", 10)
    assert isinstance(found, HeldOutLists)
    assert [packed.user_ids[place] for place in found.users] == ["a"]


def test_folds_part_the_pairs() -> None:
    users, items, _ = planted_log()
    both = hashed_ids(users), hashed_ids(items)
    parts = [held_in_fold(*both, number, 4, 0.1, seed=5) for number in range(4)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
    one = held_in_fold(*both, 0, 1, 0.1, seed=5)
    owner = np.array(users)
    for user in set(users):
        n = int(np.sum(owner == user))
        assert {int(part[owner == user].sum()) for part in parts} <= {n // 4, -(-n // 4)}
        assert one[owner == user].sum() == max(1, math.floor(0.1 * n + 0.5))


@pytest.mark.parametrize("start", [IMPLICIT, replace(IMPLICIT, alpha=10.0), EXPLICIT])
def test_the_settings_found_reach_their_figure_again(start: AlsParameters) -> None:
    """A training from a cold start, by the loop that `train` runs, without any rule that ends it early."""
    log = planted_log(explicit=start.objective == "explicit")
    with runner_of(log, start) as runner:
        found = search(runner)
        assert found.parameters.epochs == found.best.best_epoch
        values: list[float] = []

        def look(_: int, state: Snapshot[ArrayRows]) -> float:
            values.append(runner.folds[0].judge(state))
            return values[-1]

        train(runner.folds[0].plan, found.parameters, validate=look)
    assert values[-1] == found.best.value


def test_a_search_beats_its_start_on_planted_tastes() -> None:
    with runner_of(planted_log(), replace(IMPLICIT, rank=4, regularization=3.0), budget=20) as runner:
        given = runner.run_given(runner.space.start)
        found = search(runner)
    assert found.best.value > 1.1 * given.value


@pytest.mark.parametrize("start", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("cut", [0, 1, 5, 7, 10, 13])
def test_a_search_that_was_cut_off_ends_with_the_same_bits(start: AlsParameters, cut: int) -> None:
    log = planted_log(explicit=start.objective == "explicit")
    with runner_of(log, start) as runner:
        whole = search(runner)
    assert len(whole.trials) == 14
    done = list(zip(whole.trials, whole.outcomes, strict=True))[:cut]
    # Another process: it has none of the factors that later trials start from.
    with runner_of(log, start) as fresh:
        rest = search(fresh, done)
    assert rest.trials == whole.trials
    assert [told(one) for one in rest.outcomes] == [told(one) for one in whole.outcomes]
    assert rest.parameters == whole.parameters


def test_neither_threads_nor_the_order_of_rows_change_a_trial() -> None:
    users, items, _ = planted_log()
    order = np.random.default_rng(1).permutation(len(users))
    shuffled = [users[n] for n in order], [items[n] for n in order]
    first = tune_ratings(users, items, None, IMPLICIT, 8, **SMALL)
    second = tune_ratings(*shuffled, None, IMPLICIT, 8, threads=3, **SMALL)
    assert first.trials == second.trials
    assert first.parameters == second.parameters


def test_grown_factors_score_as_they_did_before_training_goes_on() -> None:
    with runner_of(planted_log(), IMPLICIT) as runner:
        point = tuple(runner.space.point(runner.space.start))
        first = Proposal(1, "design", point, 4, 3, None)
        outcome = runner.run(first, [])
        trials = [Trial(first, outcome.value, outcome.best_epoch)]
        kept = runner.kept[1][0]
        assert kept[0].array.shape[1] == 4
        grown = Proposal(2, "ranks", point, 8, 6, 1)
        warm = runner.run(grown, trials)
        cold = runner.run_given(runner.space.parameters(point, 8, 1))
        one_epoch = runner.run(replace(grown, epochs=1), trials)
    # One epoch from good factors is better than one from draws, and what follows no worse than it.
    assert one_epoch.value > cold.value
    assert warm.value >= one_epoch.value
    assert runner.kept[2][0][1].array.shape[1] == 8


def test_a_trial_ends_when_its_metric_does_not_rise_and_keeps_its_best_epoch() -> None:
    values = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    with runner_of(planted_log(), IMPLICIT) as runner:
        falling = TrialRunner([Fold(runner.folds[0].plan, lambda _: next(values))], runner.space, 14, seed=3)
        outcome = falling.run_given(replace(IMPLICIT, rank=4, epochs=10))
    assert (outcome.value, outcome.best_epoch, outcome.epochs) == (0.3, 2, 2 + PATIENCE)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_a_failed_trial(wrong: float) -> None:
    with runner_of(planted_log(), IMPLICIT) as runner:
        broken = TrialRunner([Fold(runner.folds[0].plan, lambda _: wrong)], runner.space, 14, seed=3)
        outcome = broken.run_given(replace(IMPLICIT, rank=4, epochs=3))
        assert outcome.failed
        with pytest.raises(ConfigError, match="every trial failed"):
            search(broken)


def test_a_rank_that_does_not_fit_is_a_failed_trial_and_the_search_goes_on() -> None:
    def refuse(rank: int) -> str | None:
        return f"rank {rank} is too much" if rank > 4 else None

    with runner_of(planted_log(), IMPLICIT, refuse=refuse) as runner:
        found = search(runner)
    failed = [outcome for outcome in found.outcomes if outcome.failed]
    assert [outcome.reason for outcome in failed] == ["rank 8 is too much"]
    assert found.parameters.rank == 4
    assert len(found.trials) == 14


def test_a_search_out_of_time_still_has_a_result() -> None:
    with runner_of(planted_log(), IMPLICIT) as runner:
        found = search(runner, go_on=lambda: False)
    assert len(found.trials) == 1
    assert found.parameters.rank == 4


def test_factors_that_nobody_starts_from_are_not_kept() -> None:
    with runner_of(planted_log(), IMPLICIT, budget=20) as runner:
        most = 0

        def look(*_: object) -> None:
            nonlocal most
            most = max(most, len(runner.kept))

        search(runner, on_trial=look)
    # Of the design two may go on, and one is the best.
    assert most <= 3


def test_several_folds_tell_their_mean_and_its_standard_error() -> None:
    users, items, values = planted_log(explicit=True)
    outcomes: list[Outcome] = []
    found = tune_ratings(
        *(users, items, values, EXPLICIT, 3),
        **{**SMALL, "folds": 3, "metric": "mae"},
        on_trial=lambda _, outcome: outcomes.append(outcome),
    )
    assert all(outcome.standard_error > 0 for outcome in outcomes)
    single = []
    for number in range(3):
        held = held_in_fold(hashed_ids(users), hashed_ids(items), number, 3, 0.1, EXPLICIT.seed)
        parts = []
        for chosen in (~held, held):
            places = np.flatnonzero(chosen)
            assert values is not None
            parts.append(([users[n] for n in places], [items[n] for n in places], values[places]))
        packed = pack_ratings(*parts[0], EXPLICIT)
        judge = held_out_of(packed, parts[1], "mae", 10).judge("mae", 5)
        first = found.trials[0].proposal
        with LocalPlan(packed.user_blocks, packed.item_blocks, EXPLICIT) as plan:
            runner = TrialRunner([Fold(plan, judge)], found.space, 3, seed=EXPLICIT.seed)
            single.append(runner.run(first, []).value)
    assert found.trials[0].value == pytest.approx(np.mean(single), rel=1e-12)
    assert outcomes[0].standard_error == pytest.approx(np.std(single, ddof=1) / math.sqrt(3), rel=1e-12)


def test_a_metric_must_fit_the_objective() -> None:
    for metric, parameters in (("rmse", IMPLICIT), ("ndcg", EXPLICIT)):
        with pytest.raises(ConfigError, match="does not fit"):
            check_metric(metric, parameters)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="judged by rmse or mae"):
        HeldOutRatings(np.array([0]), np.array([0]), np.array([1.0])).judge("ndcg", 5)


def test_nothing_held_out_is_refused() -> None:
    # Who has one pair keeps it.
    with pytest.raises(DataRefusedError, match="hold out another part"):
        tune_ratings(["a", "b"], ["x", "y"], None, IMPLICIT, 3)
    with pytest.raises(DataRefusedError, match="hold out another part"):
        tune_ratings(["a", "b"], ["x", "y"], np.array([1.0, 2.0], np.float32), EXPLICIT, 3, metric="rmse")
