"""The choice of a plan and what a load needs: laws that hold whatever the constants are, and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from factorlake.cli import invoke
from factorlake.errors import ConfigError
from factorlake.models.estimate import CLUSTERS, DRIVER_MEMORY, PYTHON, Load, choose_plan, estimate

SMALL = Load(users=1000, items=1000, pairs=10_000, rank=16, epochs=10, k=10)
MANY_PAIRS = replace(SMALL, users=10**6, items=10**5, pairs=10**9)
MANY_ROWS = replace(SMALL, users=10**8, items=10**6, pairs=10**10)


def test_auto_lets_the_driver_hold_as_much_as_fits() -> None:
    assert choose_plan("auto", True, True, SMALL)[0] == "local"
    assert choose_plan("auto", False, True, SMALL)[0] == "broadcast"
    assert choose_plan("auto", True, True, MANY_PAIRS)[0] == "broadcast"
    assert choose_plan("auto", True, True, MANY_ROWS)[0] == "shuffle"
    assert choose_plan("auto", False, True, MANY_ROWS)[0] == "shuffle"
    assert choose_plan("auto", False, False, MANY_ROWS)[0] == "broadcast"
    assert choose_plan("shuffle", True, True, SMALL)[0] == "shuffle"
    # Rows of features count by their ids and columns: 10⁶ of a thousand float32 are 4 GB, of two thousand 8 GB.
    some, many = (replace(SMALL, users=10**6, user_columns=columns) for columns in (1_000, 2_000))
    assert (some.features, replace(many, item_columns=3).features) == (4 * 10**9, 8 * 10**9 + 12_000)
    assert [choose_plan("auto", True, True, load)[0] for load in (some, many)] == ["local", "shuffle"]
    assert [choose_plan("auto", False, by_file, many)[0] for by_file in (True, False)] == ["shuffle", "broadcast"]
    assert "3815 MiB of features" in choose_plan("auto", True, True, some)[1]


def test_shuffle_is_refused_where_workers_do_not_see_the_root() -> None:
    with pytest.raises(ConfigError, match="plan broadcast"):
        choose_plan("shuffle", False, False, SMALL)


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.name)
@pytest.mark.parametrize("load", [SMALL, MANY_PAIRS, MANY_ROWS], ids=["small", "many pairs", "many rows"])
def test_more_work_never_needs_less(load: Load, cluster: object) -> None:
    one = estimate(load, cluster)  # type: ignore[arg-type]
    assert one.plan == choose_plan("auto", one.cluster.is_local, True, load)[0]
    for name in ("users", "items", "pairs", "rank", "epochs", "k"):
        # Not so much more that another plan is taken.
        more = estimate(replace(load, **{name: getattr(load, name) + getattr(load, name) // 10}), one.cluster)
        assert more.plan == one.plan
        for figure in ("driver_memory", "worker_memory", "disk", "written", "core_hours"):
            if (name, figure) == ("pairs", "worker_memory"):
                # With twice as many blocks a task holds half as much.
                continue
            assert getattr(more, figure) >= getattr(one, figure), (name, figure)


def test_what_the_driver_holds_is_within_its_limit_and_in_shuffle_does_not_grow_with_users() -> None:
    for load in (SMALL, MANY_PAIRS, MANY_ROWS):
        for cluster in CLUSTERS:
            assert estimate(load, cluster).driver_memory <= DRIVER_MEMORY + PYTHON
    twice = replace(MANY_ROWS, users=2 * MANY_ROWS.users)
    assert estimate(twice, CLUSTERS[1]).driver_memory == estimate(MANY_ROWS, CLUSTERS[1]).driver_memory


def test_more_cores_take_less_time_and_no_fewer_core_hours() -> None:
    few, many = (estimate(MANY_PAIRS, cluster) for cluster in CLUSTERS[1:])
    assert sum(many.seconds.values()) < sum(few.seconds.values())
    assert many.core_hours >= few.core_hours


def test_the_command_prints_a_table_and_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--users", "2000000", "--items", "200000", "--events", "100000000"]
    assert invoke(["plan", *sizes, "--rank", "64", "--k", "10"]) == 0
    printed = capsys.readouterr()
    line = json.loads(printed.out.splitlines()[-1])
    assert [one["cluster"]["name"] for one in line["estimates"]] == [cluster.name for cluster in CLUSTERS]
    assert line["load"]["pairs"] == 100_000_000
    assert "core-hours" in printed.err and line["estimates"][0]["plan"] in printed.err


def test_sizes_below_one_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", "--users", "0", "--items", "5", "--events", "5"]) == ConfigError.exit_code
    assert "users must be at least 1, got 0" in capsys.readouterr().err
