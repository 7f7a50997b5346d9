"""Hostile names, paths and YAML are refused by name, or are plain text like any other: nothing runs, nothing leads out
of its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from factorlake.config.loader import load_settings
from factorlake.errors import ConfigError, DataRefusedError
from factorlake.quality.conditions import compile_condition
from factorlake.quality.expectations import read_suite
from factorlake.spark.files import literal_path, refuse_leading_out
from factorlake.tables.names import Lake

NAMES = [
    "",
    " ",
    ".",
    "..",
    "../main",
    "main/../../etc",
    "/etc",
    "a/b",
    "a\\b",
    "a b",
    "a;DROP TABLE users",
    "a`; DROP TABLE users; --",
    "`",
    "a'b",
    'a"b',
    "a\nb",
    "a\x00b",
    "a\x1bb",
    "$(id)",
    "${HOME}",
    "%2e%2e%2f",
    "a*",
    "a?",
    "{a,b}",
    "[a]",
    "s3://bucket",
    "-rf",
    "ａｄｍｉｎ",
    "main\u202e",
    "a" * 200,
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name_of_a_recommender_a_slot_a_rule_or_a_model_is_refused_by_name(name: str) -> None:
    for setting in ("recommender", "publish.slot"):
        values: dict[str, object] = {"recommender": name} if setting == "recommender" else {"publish": {"slot": name}}
        with pytest.raises(ConfigError, match=setting.replace(".", r"\.")):
            _built(values)
    with pytest.raises(ConfigError, match=r"validate\.rules\.0\.name"):
        _built({"validate": {"rules": [{"name": name, "type": "required", "column": "a"}]}})
    lake = Lake.at("/lake", "main")
    calls: list[Callable[[str], str]] = [lake.candidate_folder, lake.decomposition_folder, lake.search_folder]
    calls += [lake.shared, lake.own, lambda table: lake.published(table, "live")]
    for call in calls:
        with pytest.raises(ConfigError, match=re.escape(repr(name))):
            call(name)


def _built(values: dict[str, object]) -> None:
    from factorlake.config.loader import build

    build(values)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name_of_a_column_is_refused_or_stays_inside_its_literal(name: str) -> None:
    try:
        sql = compile_condition(f"`{name}` = 'x'", "rule").sql
    except ConfigError as refused:
        assert "'rule'" in str(refused)
        return
    # Spark's own literals: a backslash and whatever follows it, or anything but a quote.
    literals = re.findall(r"'((?:\\.|[^'\\])*)'", sql, re.DOTALL)
    assert name in [re.sub(r"\\(.)", r"\1", literal, flags=re.DOTALL) for literal in literals]
    assert re.fullmatch(r"[\w\s`(),=<>]*", re.sub(r"'((?:\\.|[^'\\])*)'", "", sql, flags=re.DOTALL)), sql


LINKS = ["events/day.csv", "events/deep/day.csv", "day.csv", ".hidden.csv", "a b.csv"]
GLOBS = ["a*.csv", "a?.csv", "{a,b}.csv", "[ab].csv", "a\\b.csv", "**/x.csv"]
TRICKS = ["../secret.csv", "events/../../secret.csv", "./../secret.csv", "events/./../../secret.csv"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_folder_of_the_log_is_refused_by_name(tmp_path: Path, name: str) -> None:
    log, secret = tmp_path / "log", tmp_path / "secret.csv"
    secret.write_text("x\n")
    planted = log / name
    planted.parent.mkdir(parents=True)
    planted.symlink_to(secret)
    with pytest.raises(DataRefusedError, match=re.escape(str(planted))):
        refuse_leading_out(str(log), [str(planted)])


@pytest.mark.parametrize("name", TRICKS)
def test_a_path_with_steps_back_out_of_the_folder_of_the_log_is_refused_by_name(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    (log / "events").mkdir(parents=True)
    with pytest.raises(DataRefusedError, match=re.escape(name)):
        refuse_leading_out(str(log), [f"{log}/{name}"])


def test_a_link_to_a_folder_elsewhere_is_refused_and_one_inside_or_to_the_log_itself_is_not(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    (log / "events").mkdir(parents=True)
    other.mkdir()
    (other / "a.csv").write_text("x\n")
    (log / "away").symlink_to(other)
    with pytest.raises(DataRefusedError, match="away"):
        refuse_leading_out(str(log), [f"{log}/away/a.csv"])
    # A neighbour whose name begins alike is elsewhere too.
    (tmp_path / "log-2").mkdir()
    (log / "near").symlink_to(tmp_path / "log-2")
    with pytest.raises(DataRefusedError, match="near"):
        refuse_leading_out(str(log), [f"{log}/near/a.csv"])
    (log / "events" / "a.csv").write_text("x\n")
    (log / "again.csv").symlink_to(log / "events" / "a.csv")
    (tmp_path / "entry").symlink_to(log)
    refuse_leading_out(str(log), [f"{log}/again.csv"])
    refuse_leading_out(str(tmp_path / "entry"), [f"{tmp_path}/entry/events/a.csv"])


@pytest.mark.parametrize("name", GLOBS)
def test_a_path_with_marks_of_a_glob_means_the_one_file_that_it_names(name: str) -> None:
    escaped = literal_path(name)
    assert re.sub(r"\\(.)", r"\1", escaped) == name
    assert not re.search(r"[*?{}\[\]]", re.sub(r"\\.", "", escaped))


@pytest.mark.parametrize("setting", ["root", "input", "tune.out", "attributes.items.input", "decompose.input"])
def test_a_path_with_a_nul_is_refused_by_name(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.replace(".", r"\.")):
        load_settings([], [f'{setting}="/lake\\0/etc"'], {})


def test_a_conf_file_or_suite_with_a_nul_in_its_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\\x00b"):
        load_settings(["a\x00b"], [], {})
    with pytest.raises(ConfigError, match="suite"):
        read_suite("a\x00b.yaml", str(tmp_path))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
PAYLOADS = [
    "root: !!python/object/apply:os.system ['touch RAN']\n",
    "root: !!python/object/new:os.system ['touch RAN']\n",
    "root: !!python/name:os.system\n",
    "root: !!python/module:os\n",
    "root: !!python/object:os.stat_result {}\n",
    "root: !!python/tuple [a, b]\n",
    "!!python/object/apply:subprocess.check_output [[touch, RAN]]\n",
    "root: !include /etc/passwd\n",
    BOMB,
    "root: &a [*a]\n",
    "root: one\nroot: two\n",
    "train: {rank: 1, rank: 2}\n",
    "[" * 100_000,
    "root: " + "{a: " * 20_000 + "1" + "}" * 20_000,
    "root: 2024-13-45\n",
    "root: [unclosed\n",
    "a: b: c\n",
]


@pytest.mark.parametrize("text", PAYLOADS, ids=range(len(PAYLOADS)))
def test_hostile_yaml_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"hostile\.yaml|root"):
        load_settings([tmp_path / "hostile.yaml"], [], {})
    with pytest.raises(ConfigError, match=r"hostile\.yaml"):
        read_suite("hostile.yaml", str(tmp_path))
    with pytest.raises(ConfigError, match=r"train\.rank"):
        load_settings([], [f"train.rank={text}"], {})
    assert os.listdir(tmp_path) == ["hostile.yaml"]
