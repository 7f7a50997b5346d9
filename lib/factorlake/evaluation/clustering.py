"""How well a clustering agrees with labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from factorlake.errors import DataRefusedError


def purity(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of things that carry the commonest label of their cluster; NaN for none.

    Parameters
    ----------
    clusters, labels : (n,) of any values that compare; each distinct value is a cluster, or a label.

    It is 1 where no cluster holds two labels, so that of clusterings only those with as many clusters can be compared.

    Raises
    ------
    DataRefusedError : not as many clusters as labels.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 16.3.
    """
    cluster_of, label_of = np.asarray(clusters), np.asarray(labels)
    if cluster_of.shape != label_of.shape or cluster_of.ndim != 1:
        raise DataRefusedError(
            f"clusters {cluster_of.shape} and labels {label_of.shape} are not one of each for every thing"
        )
    if not len(cluster_of):
        return float("nan")
    names, cluster = np.unique(cluster_of, return_inverse=True)
    kinds, label = np.unique(label_of, return_inverse=True)
    table = np.bincount(cluster * len(kinds) + label, minlength=len(names) * len(kinds)).reshape(len(names), len(kinds))
    return float(table.max(axis=1).sum() / len(cluster_of))
