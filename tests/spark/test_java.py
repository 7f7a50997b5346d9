"""The Java check, against stand-in runtimes that answer as the real ones do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from factorlake.errors import ConfigError
from factorlake.spark import java

ROOT = Path(__file__).resolve().parents[2]


def runtime(folder: Path, answer: str) -> Path:
    """Make a JAVA_HOME whose java writes ``answer`` to stderr."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{answer}\nEND\n", encoding="utf-8")
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize("version", ["17.0.15", "21.0.8", "21"])
def test_java_17_and_21_fit(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(runtime(tmp_path, f'openjdk version "{version}" 2025-04-15')))
    assert java.java_fault() is None


@pytest.mark.parametrize(("version", "told"), [("1.8.0_402", "Java 8"), ("25.0.1", "Java 25")])
def test_another_java_is_told_by_its_version(
    version: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(runtime(tmp_path, f'openjdk version "{version}"')))
    assert told in str(java.java_fault())


def test_runtime_without_the_vector_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = runtime(tmp_path, 'openjdk version "17.0.9"')
    refusal = "case $1 in --add-modules) exit 1 ;; esac\n"
    program = home / "bin" / "java"
    program.write_text(program.read_text(encoding="utf-8").replace("cat", refusal + "cat"), encoding="utf-8")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert "jdk.incubator.vector" in str(java.java_fault())


def test_absent_java_is_told_with_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Java 17 or 21 is not installed\. Run: ") as raised:
        java.require_java()
    assert "\n" not in str(raised.value)


def test_the_check_runs_before_anything_is_installed() -> None:
    # -I and -S: the standard library and nothing else.
    code = "import sys; sys.path.insert(0, sys.argv[1]); import factorlake.spark.java"
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT / "lib")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
