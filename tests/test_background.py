"""Modules imported beside other work."""

from __future__ import annotations

import sys

import pytest

from factorlake.background import HAND_OVER, import_beside


def test_gives_the_module_and_the_interpreters_own_interval_back() -> None:
    before = sys.getswitchinterval()
    assert before > HAND_OVER
    module = import_beside("factorlake.reporting.masking").result(60)
    assert module is sys.modules["factorlake.reporting.masking"]
    assert sys.getswitchinterval() == before


def test_gives_the_error_of_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"factorlake\.nowhere"):
        import_beside("factorlake.nowhere").result(60)
