"""Modules imported beside other work."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from factorlake.background import HAND_OVER, import_beside

# What each slow module waits for.
GATES = {name: threading.Event() for name in ("one", "other")}


@pytest.fixture(autouse=True)
def alone() -> None:
    """Let imports that another test began end first."""
    for thread in threading.enumerate():
        if thread.name.startswith("import "):
            thread.join(60)


def test_gives_the_module_and_the_interpreters_own_interval_back() -> None:
    before = sys.getswitchinterval()
    assert before > HAND_OVER
    module = import_beside("factorlake.reporting.masking").result(60)
    assert module is sys.modules["factorlake.reporting.masking"]
    assert sys.getswitchinterval() == before


def test_of_two_at_once_the_last_gives_the_interval_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.getswitchinterval()
    for name in ("one", "other"):
        (tmp_path / f"{name}_slow_module.py").write_text(
            f"from tests import test_background\ntest_background.GATES[{name!r}].wait(60)\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tests.test_background", sys.modules[__name__])
    one, other = import_beside("one_slow_module"), import_beside("other_slow_module")
    GATES["one"].set()
    one.result(60)
    assert not other.done()
    GATES["other"].set()
    other.result(60)
    assert sys.getswitchinterval() == before


def test_gives_the_error_of_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"factorlake\.nowhere"):
        import_beside("factorlake.nowhere").result(60)
