"""Purity: worked by hand, at its ends, and against a table of counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from factorlake.errors import DataRefusedError
from factorlake.evaluation.clustering import purity


def test_a_clustering_worked_by_hand() -> None:
    # Cluster 0 has x, x, y; cluster 1 has y, z: the commonest are two and one of five.
    assert purity([0, 0, 0, 1, 1], ["x", "x", "y", "y", "z"]) == 3 / 5


def test_its_ends() -> None:
    labels = np.array(["a", "a", "b", "c"])
    assert purity(labels, labels) == 1.0
    assert purity(np.arange(4), labels) == 1.0
    assert purity(np.zeros(4), labels) == 0.5
    assert np.isnan(purity([], []))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_sum_of_the_largest_counts_whatever_clusters_are_called(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters, labels = rng.integers(-1, 4, 300), rng.choice(["tech", "sport", "other"], 300)
    wanted = pd.crosstab(clusters, labels).max(axis=1).sum() / 300
    assert purity(clusters, labels) == wanted
    assert purity(np.array(["e", "d", "c", "b", "a"])[clusters + 1], labels) == wanted


def test_clusters_and_labels_of_different_things_are_refused() -> None:
    with pytest.raises(DataRefusedError, match="one of each"):
        purity([0, 1], ["a"])
    with pytest.raises(DataRefusedError, match="one of each"):
        purity(np.zeros((2, 2)), np.zeros((2, 2)))
