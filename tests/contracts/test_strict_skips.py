"""STRICT=1 turns skips into failures, but for the listed reasons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.contracts.strict_skips import allowed_reasons

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = "import pytest\n\n@pytest.mark.skip(reason={reason!r})\ndef test_it() -> None:\n    pass\n"
SKIPPED_FILE = "import pytest\n\npytest.importorskip('no_such_module_anywhere')\n\ndef test_it() -> None:\n    pass\n"


def run_pytest(folder: Path, source: str, strict: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_sample.py").write_text(source, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "tests.contracts.strict_skips", str(folder)]
    environment = {**os.environ, "STRICT": strict, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_skip_passes_without_strict(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SKIPPED.format(reason="no reason"), strict="0")
    assert done.returncode == 0 and "1 skipped" in done.stdout, done.stdout


def test_a_skip_fails_with_strict_and_says_why(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SKIPPED.format(reason="no such thing here"), strict="1")
    assert done.returncode == 1 and "no such thing here" in done.stdout, done.stdout


def test_a_skipped_file_fails_with_strict(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SKIPPED_FILE, strict="1")
    assert done.returncode != 0 and "no_such_module_anywhere" in done.stdout, done.stdout


def test_a_listed_reason_is_let_through_with_strict(tmp_path: Path) -> None:
    listed = allowed_reasons((ROOT / "tests/contracts/allowed_skips.txt").read_text(encoding="utf-8"))
    done = run_pytest(tmp_path, SKIPPED.format(reason=listed[0] + ": EPERM"), strict="1")
    assert done.returncode == 0 and "1 skipped" in done.stdout, done.stdout
