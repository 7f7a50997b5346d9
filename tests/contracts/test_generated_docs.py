"""docs/tables.md and docs/configuration.md are what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs import generate
from factorlake.tables.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]


def test_generated_pages_say_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_told_and_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main([]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(generate.PAGES)
    (tmp_path / "tables.md").write_text("old\n", encoding="utf-8")
    assert generate.main(["--check"]) == 1
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == "old\n"


def test_generated_pages_name_every_column_and_every_section() -> None:
    tables, configuration = generate.tables_page(), generate.configuration_page()
    for schema in SCHEMAS.values():
        part = tables.split(f"\n### {schema.name}\n")[1].split("\n#")[0]
        assert [line.split(" | ")[0].removeprefix("| ") for line in part.splitlines() if " | `" in line] == [
            field.name for field in schema.fields
        ]
    for name in ("ingest", "events.columns", "validate.rules[]", "validate.gate", "train.early_stopping"):
        assert f"## `{name}`\n" in configuration
