"""MovieLens 100K as a frame, and one model of each trainer with the same settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests.ml.objectives import BLOCKS, SETTINGS


@pytest.fixture(scope="session")
def table(data_dir: Path) -> pd.DataFrame:
    """user, item (int32), rating (float32)."""
    ratings = pd.read_parquet(data_dir / "ml-100k" / "ratings.parquet", columns=["user", "item", "rating"])
    return ratings.astype({"user": "int32", "item": "int32", "rating": "float32"})


@pytest.fixture(scope="session")
def ratings(spark: SparkSession, data_dir: Path) -> DataFrame:
    frame = spark.read.parquet(str(data_dir / "ml-100k" / "ratings.parquet"))
    kept = frame.select("user", "item", F.col("rating").cast("float").alias("rating")).coalesce(2).persist()
    kept.count()
    return kept


@pytest.fixture(scope="session")
def small(ratings: DataFrame) -> DataFrame:
    """The ratings of a tenth of the users: enough where only the calls matter."""
    return ratings.where(F.col("user") % 10 == 0).persist()


@pytest.fixture(scope="session")
def ours(ratings: DataFrame) -> Any:
    from factorlake.ml import ALS

    return ALS(**SETTINGS).fit(ratings)


@pytest.fixture(scope="session")
def theirs(ratings: DataFrame) -> Any:
    from pyspark.ml.recommendation import ALS

    return ALS(**SETTINGS, **BLOCKS).fit(ratings)
