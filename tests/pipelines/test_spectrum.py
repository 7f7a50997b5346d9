"""The spectrum that `train` records is that of the factors it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from factorlake.models.spectrum import NORM_LEVELS, Spectrum
from factorlake.pipelines import attributes, ingest, report, train, validate
from factorlake.pipelines.context import Context, JobResult
from factorlake.tables import registry
from factorlake.types import PlanName
from tests.pipelines.lakes import context_at, write_csv
from tests.reference.contents import read_table

pytestmark = pytest.mark.spark
# Figures of the model are sums over float32 factors in float64, of a matrix whose condition is below 1e4.
ROUNDED = 1e-9


def trained(spark: SparkSession, root: str, source: Path, objective: str, plan: PlanName) -> tuple[Context, JobResult]:
    settings = {"objective": objective, "rank": 3, "epochs": 5, "plan": plan}
    context = context_at(spark, root, source, train=settings)
    for job in (ingest, validate, attributes):
        job.run(context)
    return context, train.run(context)


@pytest.mark.parametrize(
    ("objective", "plan"), [("implicit", "local"), ("explicit", "broadcast"), ("implicit", "shuffle")]
)
def test_it_is_that_of_the_factors_table(
    spark: SparkSession, lake_root: str, tmp_path: Path, objective: str, plan: PlanName
) -> None:
    rng = np.random.default_rng(1)
    pairs = rng.choice(30 * 12, 200, replace=False)
    rows = [f"u{p // 12},i{p % 12},{1 + p % 5},2024-01-01T00:00:00Z" for p in pairs]
    source = write_csv(tmp_path / "log" / "a.csv", *rows).parent
    context, result = trained(spark, lake_root, source, objective, plan)
    assert result.model_version is not None
    row = registry.model(spark, context.lake, result.model_version)
    assert row is not None
    found = Spectrum.from_json(row["spectrum"])

    table = read_table(context.lake.candidate(result.model_version, "factors")).to_pandas()
    x, y = (np.stack(table[table["side"] == side]["factor"].to_list()).astype(np.float64) for side in ("user", "item"))
    wanted = np.linalg.svd(x @ y.T, compute_uv=False)[:3]
    assert found.singular_values == pytest.approx(wanted, rel=ROUNDED)
    shares = wanted / wanted.sum()
    assert found.effective_rank == pytest.approx(np.prod(shares**-shares), rel=ROUNDED)
    for norms, side in ((found.user_norms, x), (found.item_norms, y)):
        assert norms == pytest.approx(np.quantile(np.linalg.norm(side, axis=1), NORM_LEVELS), rel=ROUNDED)
    assert report.build_report(context, result, []).spectrum == found
