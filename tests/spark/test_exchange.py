"""Shipped arrays in the process that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from factorlake.spark.exchange import Handle


def test_a_file_that_was_dropped_is_let_go_with_the_next_load(tmp_path: Path) -> None:
    handles = []
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.full(2000, number))
        handles.append(Handle(str(tmp_path / f"{number}.npy"), None))
    kept, dropped, other = handles
    held = kept.load()
    assert [handle.load()[0] for handle in (kept, dropped)] == [0, 1]
    (tmp_path / "1.npy").unlink()
    assert other.load()[0] == 2
    mapped = Path("/proc/self/maps").read_text()
    assert [f"{tmp_path}/{number}.npy" in mapped for number in range(3)] == [True, False, True]
    # What is still there is mapped once.
    assert kept.load() is held
