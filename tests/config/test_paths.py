"""Which paths are this machine's, and what they are called there."""

from __future__ import annotations

from pathlib import Path

import pytest

from factorlake.paths import has_scheme, resolved


@pytest.mark.parametrize(
    "path", ["s3://b/a/", "abfss://c@h/a", "gs://b", "dbfs:/a", "hdfs:/a", "file:/a b", "file:///a"]
)
def test_a_path_with_a_scheme_is_left_to_spark(path: str) -> None:
    assert has_scheme(path)
    assert resolved(path) == path


@pytest.mark.parametrize(("path", "here"), [("/a/b/", "/a/b"), ("/a/s3://b", "/a/s3:/b"), ("/a b:/c", "/a b:/c")])
def test_a_path_without_one_is_of_this_machine(path: str, here: str) -> None:
    assert not has_scheme(path)
    assert resolved(path) == here


def test_a_relative_path_is_of_the_folder_that_the_job_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved("a:b") == f"{tmp_path}/a:b"
    assert resolved("c:/d") == f"{tmp_path}/c:/d"
