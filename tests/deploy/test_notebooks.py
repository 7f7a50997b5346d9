"""Notebooks run from top to bottom on a small embedded log, with a stand-in for what Databricks provides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = "# Databricks notebook source"
# Databricks gives a notebook `dbutils` and `display`; the stand-ins keep the widgets and count what is shown.
STAND_IN = """
import json, sys

class Widgets:
    def __init__(self, given):
        self.given = given
        self.values = {}

    def text(self, name, default, label=""):
        self.values[name] = self.given.get(name, default)

    def get(self, name):
        return self.values[name]

class Dbutils:
    widgets = Widgets(json.loads(sys.argv[2]))

dbutils = Dbutils()
shown = []

def display(thing):
    shown.append(len(thing.toPandas()) if hasattr(thing, "toPandas") else type(thing).__name__)

cells = open(sys.argv[1], encoding="utf-8").read().split("# COMMAND ----------")
for number, cell in enumerate(cells, 1):
    exec(compile(cell, f"cell {number}", "exec"))
print(json.dumps(shown))
"""


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.name)
def test_notebook_is_in_databricks_source_format(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(HEADER + "\n")
    assert not [line for line in text.splitlines() if line.startswith(("%", "!"))]


@pytest.mark.spark
def test_quickstart_runs_the_pipeline_and_shows_what_came_of_it(tmp_path: Path) -> None:
    # As small as the embedded log goes with enough events after the holdout to judge a model.
    small = "demo.listeners=120 demo.tracks=60 train.epochs=4 train.rank=8 spark.master=local[2]"
    widgets = {
        "config": str(ROOT / "conf" / "base" / "demo.yaml"),
        "root": str(tmp_path / "lake"),
        "set": f"{small} spark.driver_memory=2g",
    }
    command = [
        sys.executable,
        "-c",
        STAND_IN,
        str(ROOT / "notebooks" / "01_quickstart.py"),
        json.dumps(widgets),
    ]
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    trace, plot, evaluation, recommendations = json.loads(done.stdout.strip().splitlines()[-1])
    assert plot == "Figure"
    assert trace >= 1 and evaluation >= 1
    assert recommendations == 50


def test_decompositions_show_their_figures_and_what_hermione_is_offered(tmp_path: Path) -> None:
    notebook = str(ROOT / "notebooks" / "06_decompositions.py")
    command = [sys.executable, "-c", STAND_IN, notebook, json.dumps({"epochs": "100", "size": "64"})]
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    *told, shown = done.stdout.strip().splitlines()
    # By hand: (0.3971·4 + 0.5930·5) / (0.3971 + 0.5930), and (0.5930·1 + 0.8101·5) / (0.5930 + 0.8101).
    assert told == ["Back in Black: 4.60", "Brandenburg Concerto No. 3: 3.31"]
    assert json.loads(shown) == ["Figure"] * 4
