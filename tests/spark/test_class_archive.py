"""The archive of classes that set-up leaves beside Spark, and what becomes of it when it does not fit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from factorlake.config.settings import SparkSettings
from factorlake.errors import FactorlakeError
from factorlake.spark import class_archive
from factorlake.spark.session import JAVA_OPTIONS, LATER_OPTIMIZATION, session_settings


@pytest.fixture
def empty_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Spark of one jar, without an archive."""
    jars = tmp_path / "my spark" / "jars"
    jars.mkdir(parents=True)
    (jars / "one.jar").write_bytes(b"1")
    monkeypatch.setattr(class_archive, "spark_jars_folder", lambda: jars)
    return jars


def java_options(settings: SparkSettings, master: str) -> str | None:
    return session_settings(settings, master).get(JAVA_OPTIONS)


def test_java_takes_the_archive_that_set_up_made(tmp_path: Path) -> None:
    archive, loaded = class_archive.archive_path(), tmp_path / "loaded.log"
    assert class_archive.is_current(archive)
    # With -Xshare:on Java ends when it cannot take an archive, instead of going on without.
    options = f'-Xshare:on {class_archive.archive_options()} -Xlog:class+load:file="{loaded}"'
    command = [shutil.which("spark-submit") or "", "--driver-java-options", options, "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    lines = [line for line in loaded.read_text().splitlines() if "org.apache.spark.deploy.SparkSubmit " in line]
    assert [line.partition("source: ")[2] for line in lines] == ["shared objects file (top)"]


def test_local_sessions_take_the_archive_and_the_options_of_the_conf(empty_spark: Path) -> None:
    own = SparkSettings(conf={JAVA_OPTIONS: "-Xmn1g"})
    assert java_options(SparkSettings(), "local[2]") == LATER_OPTIMIZATION
    assert java_options(own, "local[2]") == "-Xmn1g"
    archive = empty_spark.parent / class_archive.NAME
    archive.write_bytes(b"")
    taken = f'-XX:SharedArchiveFile="{archive}" {class_archive.QUIET}'
    assert java_options(SparkSettings(), "local[2]") == f"{taken} {LATER_OPTIMIZATION}"
    assert java_options(own, "local[2]") == f"{taken} -Xmn1g"
    # A cluster's driver may run on another machine.
    assert java_options(SparkSettings(), "spark://host:7077") is None


def test_an_archive_is_current_for_the_jars_and_the_java_it_was_made_for(
    empty_spark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = class_archive.archive_path()
    assert not class_archive.is_current(archive)
    archive.write_bytes(b"")
    archive.with_suffix(".for").write_text(class_archive.key())
    assert class_archive.is_current(archive)
    (empty_spark / "two.jar").write_bytes(b"2")
    assert not class_archive.is_current(archive)
    archive.with_suffix(".for").write_text(class_archive.key())
    monkeypatch.setattr(class_archive, "java_command", lambda: None)
    assert not class_archive.is_current(archive)


def test_a_job_that_fails_leaves_the_archive_that_was_there(empty_spark: Path, tmp_path: Path) -> None:
    archive = class_archive.archive_path()
    archive.write_bytes(b"as it was")
    job = tmp_path / "job.py"
    job.write_text("raise SystemExit('no such table')")
    with pytest.raises(FactorlakeError, match=r"(?s)job\.py ended with 1 .*no such table"):
        class_archive.make([str(job)])
    assert class_archive.main([str(job)]) == 0
    assert sorted(path.name for path in archive.parent.iterdir()) == [class_archive.NAME, "jars"]
    assert archive.read_bytes() == b"as it was"
