"""Job files and verbs go in pairs; a job file is thin and runs from a bare checkout."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from factorlake.pipelines.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "jobs").glob("*.py"))
# -S leaves out the .pth files, and so the installed package; its dependencies stay reachable.
BARE = """
import runpy, sys

sys.path.append(sys.argv.pop(1))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def verb_of(path: Path) -> str:
    """Return the verb that a job file hands to run_job."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_job"
    ]
    assert len(calls) == 1, f"{path.name} must call run_job once"
    verb = calls[0].args[0]
    assert isinstance(verb, ast.Constant)
    return str(verb.value)


def test_each_verb_with_a_run_has_its_job_file_and_each_job_file_its_verb() -> None:
    assert {path.stem: verb_of(path) for path in FILES} == {job.script: verb for verb, job in JOBS.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_job_file_is_under_forty_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_job_file_runs_from_a_bare_checkout_in_any_working_directory(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-c", BARE, sysconfig.get_path("purelib"), str(path)]
    done = subprocess.run([*command, "--print-config"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recommender"] == "main"


def test_job_file_ends_with_the_exit_code_of_a_settings_fault(tmp_path: Path) -> None:
    command = [sys.executable, str(FILES[0]), "--set", "no_such_setting=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no_such_setting" in done.stderr
