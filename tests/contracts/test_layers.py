"""Which part may import which, and that the numerical part stands without Spark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_SPARK = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pyspark", "delta", "py4j"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ["kernels", "models", "evaluation", "config"])
def test_numerical_packages_import_with_pyspark_blocked(package: str) -> None:
    command = [sys.executable, "-c", WITHOUT_SPARK, f"factorlake.{package}"]
    done = subprocess.run(command, cwd=ROOT / "lib", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pipelines_write_through_their_context_alone() -> None:
    """Else a run whose lease has passed to another could write on."""
    direct = re.compile(
        r"delta_io\.(append|append_rows|overwrite)\(|import (append|overwrite)|record_model\(.*spark|\.write\."
    )
    modules = (ROOT / "lib" / "factorlake" / "pipelines").glob("*.py")
    assert [path.name for path in modules if direct.search(path.read_text())] == ["context.py"]
