"""The engine uses the DataFrame API with Arrow only, so that it runs on Spark Connect as well."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "lib" / "factorlake"
# The few calls that differ between kinds of Spark have one home.
COMPAT = LIBRARY / "spark" / "compat.py"
BANNED = {
    *("rdd", "sparkContext", "SparkContext", "_jvm", "_jsc", "_jdf", "_sc", "_jsparkSession"),
    *("cache", "persist", "unpersist", "toLocalIterator", "foreachPartition"),
}


def banned_uses(source: str) -> list[str]:
    """Return each use of a banned name as an attribute or an import, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in BANNED:
            found.append(f"line {node.lineno}: .{node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyspark"):
            names = [alias.name for alias in node.names if alias.name in BANNED]
            found += [f"line {node.lineno}: import {name}" for name in names]
    return found


def test_the_check_sees_what_it_bans() -> None:
    source = "from pyspark import SparkContext\nframe.rdd.map(f)\nframe.cache()\nspark._jvm.x\ncache = 1\n"
    assert len(banned_uses(source)) == 4


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(LIBRARY.rglob("*.py")) if path != COMPAT],
    ids=lambda path: str(path.relative_to(LIBRARY)),
)
def test_module_uses_nothing_that_spark_connect_lacks(path: Path) -> None:
    assert banned_uses(path.read_text(encoding="utf-8")) == []
