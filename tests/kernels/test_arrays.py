"""Distinct numbers against Python's own sets."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.kernels.arrays import distinct


@pytest.mark.parametrize("shape", [(0,), (1,), (500,), (20, 30), (0, 4)])
def test_distinct_numbers_are_those_of_a_set_in_order(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(len(shape)).integers(-40, 40, shape)
    assert distinct(values).tolist() == sorted(set(values.reshape(-1).tolist()))
