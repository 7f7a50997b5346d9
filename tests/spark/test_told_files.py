"""What tasks tell by file is unpickled only where it is what they wrote."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from factorlake.errors import FactorlakeError
from factorlake.spark.stored_rows import MOST_TOLD, _tell


class Planted:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_another_wrote_in_its_place_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    sums = list(range(MOST_TOLD))
    assert _tell(sums, str(tmp_path)).read() == sums
    assert list(tmp_path.iterdir()) == []

    told = _tell(sums, str(tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(FactorlakeError, match="is not what a task of this run wrote"):
        told.read()
    assert not (tmp_path / "ran").exists()
