"""The mean and the bias model beside a training by stochastic gradients, on the ratings it holds out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from factorlake.evaluation.baselines import BiasBaseline
from factorlake.kernels.hashing import hash_ids
from factorlake.models.sgd_cells import chosen_for_validation
from factorlake.pipelines import attributes, ingest, sgd, validate
from factorlake.pipelines.fit import sgd_parameters
from factorlake.pipelines.report import build_report
from factorlake.reporting.html import render_html
from tests.pipelines.lakes import context_at, write_csv

pytestmark = pytest.mark.spark
# Sums of some hundred numbers in another order.
ORDER_OF_SUMS = 1e-12


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_baselines_are_judged_by_the_ratings_held_out(
    spark: SparkSession, lake_root: str, tmp_path: Path, share: float
) -> None:
    rng = np.random.default_rng(3)
    pairs = rng.choice(40 * 15, 400, replace=False)
    users, items = pairs // 15, pairs % 15
    values = np.clip(np.round(3 + rng.normal(size=40)[users] + rng.normal(size=15)[items]), 1, 5)
    rows = [f"u{u},i{i},{v:g},2024-01-01T00:00:00Z" for u, i, v in zip(users, items, values, strict=True)]
    source = write_csv(tmp_path / "log" / "a.csv", *rows).parent
    settings = {"rank": 2, "epochs": 3, "validation_share": share, "learning_rate": 0.01}
    context = context_at(spark, lake_root, source, sgd=settings)
    for job in (ingest, validate, attributes):
        job.run(context)
    result = sgd.run(context)
    page = build_report(context, result, [])
    found = {(row.name, row.metric): row.value for row in page.validation}
    assert page.evaluation == ()
    if not share:
        assert not found
        return
    of_users, of_items = hash_ids([f"u{u}" for u in users]), hash_ids([f"i{i}" for i in items])
    held = chosen_for_validation(of_users, of_items, sgd_parameters(context.settings))
    assert 40 < held.sum() < 120
    fitted = BiasBaseline.fit(users[~held], items[~held], values[~held], 40, 15)
    predicted = {
        "mean": np.full(held.sum(), values[~held].mean()),
        "biases": fitted.predict(users[held], items[held]).clip(1, 5),
    }
    wanted: dict[tuple[str, str], float] = {}
    for name, told in predicted.items():
        errors = told - values[held]
        wanted |= {(name, "rmse"): float(np.sqrt(np.mean(errors**2))), (name, "mae"): float(np.abs(errors).mean())}
    assert found == pytest.approx(wanted, rel=ORDER_OF_SUMS)
    assert "the same of biases" in render_html(page)
