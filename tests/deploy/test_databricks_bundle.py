"""databricks.yml holds together: what it names exists, and its task is one that factorlake knows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from factorlake.pipelines.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle() -> Any:
    return yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_wheel_task_names_an_entry_point_and_a_verb_of_the_package(bundle: Any, project: Any) -> None:
    job = bundle["resources"]["jobs"]["factorlake_daily"]
    (task,) = job["tasks"]
    wheel = task["python_wheel_task"]
    assert wheel["package_name"] == project["name"]
    assert wheel["entry_point"] in project["scripts"]
    assert wheel["parameters"][0] in JOBS
    assert task["environment_key"] in {item["environment_key"] for item in job["environments"]}


def test_only_one_run_at_a_time(bundle: Any) -> None:
    assert bundle["resources"]["jobs"]["factorlake_daily"]["max_concurrent_runs"] == 1


def test_development_is_the_default_target_and_production_stands_beside_it(bundle: Any) -> None:
    assert bundle["targets"]["dev"]["default"] is True
    assert bundle["targets"]["dev"]["mode"] == "development"
    assert bundle["targets"]["prod"]["mode"] == "production"


def test_every_variable_that_is_used_is_declared(bundle: Any) -> None:
    used = set(re.findall(r"\$\{var\.(\w+)\}", (ROOT / "databricks.yml").read_text(encoding="utf-8")))
    assert used == set(bundle["variables"])


def test_the_default_conf_file_exists(bundle: Any) -> None:
    assert (ROOT / bundle["variables"]["config"]["default"]).is_file()
