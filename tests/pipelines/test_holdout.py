"""The held-out metric of an epoch reads items block by block and tells what one look at all of them tells."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.kernels.top_k import top_k
from factorlake.models.plan import ArrayRows
from factorlake.pipelines import holdout


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_best_items_by_blocks_are_those_of_all_items(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(holdout, "ITEMS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    # Few distinct numbers, so that scores tie.
    users = rng.integers(-1, 2, (40, 3)).astype(np.float32)
    items = rng.integers(-1, 2, (60, 3)).astype(np.float32)
    seen = [np.sort(rng.choice(60, rng.integers(0, 55), replace=False)) for _ in users]
    ptr = np.cumsum([0, *(len(one) for one in seen)])
    held = ArrayRows(items, np.array([0, 5, 6, 30, 60]))
    found = holdout._best_by_blocks(users, held, ptr, np.concatenate(seen))
    wanted, _ = top_k(users, items, holdout.VALIDATION_K, ptr, np.concatenate(seen), np.arange(60))
    assert np.array_equal(found[:, : holdout.VALIDATION_K], wanted)
    assert (wanted == -1).any()
