"""What stands in the repository holds on any machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:home|Users|root|work)/[a-z]\w*/")
INDEX_ADDRESS = re.compile(r"--(?:extra-)?index-url|--find-links|https?://")
LOCKS = ("requirements.lock", "deploy/airflow/requirements.lock")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    offending = {}
    for path in tracked_files():
        found = MACHINE_PATH.search(path.read_bytes())
        if found:
            offending[str(path.relative_to(ROOT))] = found.group(0)
    assert offending == {}


def test_locks_hold_a_hash_for_each_package_and_no_index_address() -> None:
    for lock in LOCKS:
        text = (ROOT / lock).read_text(encoding="utf-8")
        assert not INDEX_ADDRESS.search(text), lock
        requirements = [block for block in re.split(r"\n(?=\S)", text) if "==" in block]
        assert requirements and all("--hash=sha256:" in block for block in requirements), lock


def test_make_help_lists_every_command() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    # java, jars and classes are steps of setup, help is what is looked at.
    commands = set(phony.group(1).split()) - {"help", "java", "jars", "classes"}
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == commands | {"help"}
