"""factorlake doctor names each fault of a machine with the line that mends it, and starts no Spark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from factorlake.config.settings import Settings, SparkSettings
from factorlake.pipelines import doctor
from factorlake.pipelines.doctor import Check


def found(settings: Settings, name: str) -> Check:
    return next(check for check in doctor.examine(settings) if check.check == name)


def test_every_fault_has_a_mending_line_and_nothing_else_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PYSPARK_PYTHON", str(tmp_path / "no-python"))
    settings = Settings(root=str(tmp_path), spark=SparkSettings(driver_memory="900t"))
    checks = doctor.examine(settings)
    assert {check.check for check in checks if not check.ok} == {"java", "workers' python", "memory"}
    assert all(bool(check.fix) != check.ok for check in checks)


def test_root_that_does_not_exist_yet_is_judged_by_the_folder_it_would_be_made_in(tmp_path: Path) -> None:
    assert found(Settings(root=str(tmp_path / "new" / "lake")), "root").ok
    assert not (tmp_path / "new").exists()
    assert not found(Settings(root="/proc/lake"), "root").ok


def test_workers_python_without_our_packages_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(bare))
    check = found(Settings(root=str(tmp_path)), "workers' python")
    assert not check.ok and sys.executable in check.fix


def test_memory_that_is_no_size_is_a_fault(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path), spark=SparkSettings(driver_memory="plenty"))
    assert not found(settings, "memory").ok


def test_last_line_is_json_with_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    code = doctor.show(Settings(root=str(tmp_path)))
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert code == line["exit_code"] == 2
    assert {check["check"] for check in line["checks"]} >= {"java", "delta jars", "root"}


def test_doctor_imports_neither_pyspark_nor_great_expectations() -> None:
    heavy = "{'pyspark', 'great_expectations'} & set(sys.modules)"
    code = f"import sys, factorlake.pipelines.doctor; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
