"""Delta's jars: what stands in this environment's Spark is as recorded, and whole jars are left alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from factorlake.errors import ConfigError, TransientError
from factorlake.spark import delta_jars


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A jars folder that has both jars, copied from this environment."""
    for name in delta_jars.wanted_jars():
        shutil.copy(delta_jars.spark_jars_folder() / name, tmp_path / name)
    return tmp_path


def test_this_environment_has_both_jars_as_recorded() -> None:
    assert delta_jars.faulty_jars(delta_jars.spark_jars_folder(), delta_jars.wanted_jars()) == []


def test_a_jar_that_was_changed_or_is_gone_is_named(folder: Path) -> None:
    changed, gone = delta_jars.wanted_jars()
    with (folder / changed).open("ab") as jar:
        jar.write(b"\0")
    (folder / gone).unlink()
    assert delta_jars.faulty_jars(folder, delta_jars.wanted_jars()) == [changed, gone]


def test_whole_jars_need_neither_java_nor_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    assert delta_jars.put_delta_jars(folder) == []


def test_a_resolver_that_fails_is_told_with_the_way_to_a_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(TransientError, match="DEFAULT_ARTIFACT_REPOSITORY"):
        delta_jars.put_delta_jars(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_spark_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_jars, "version", lambda package: "4.3.0")
    with pytest.raises(ConfigError, match=r"Spark 4\.3 has no Delta"):
        delta_jars.wanted_jars()


@pytest.mark.spark
def test_set_up_again_works_with_no_network() -> None:
    probe = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"network namespaces are not allowed here: {probe.stderr.strip()}")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(["unshare", "-rn", "make", "setup"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
