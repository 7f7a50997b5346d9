"""What a session that we start is told."""

from __future__ import annotations

import re

import pytest

from factorlake.config.settings import SparkSettings
from factorlake.spark.session import session_settings


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("spark.hadoop.fs.s3a.secret.key", True),
        ("spark.hadoop.fs.s3a.access.key", True),
        ("spark.hadoop.fs.azure.account.key.store.dfs.core.windows.net", True),
        ("spark.hadoop.fs.azure.sas.container.store", True),
        ("spark.hadoop.fs.azure.account.oauth2.client.secret", True),
        ("spark.factorlake.api-key", True),
        ("spark.ssl.keyPassword", True),
        ("spark.authenticate.token", True),
        ("spark.master", False),
        ("spark.sql.shuffle.partitions", False),
        ("spark.databricks.delta.snapshotPartitions", False),
    ],
)
def test_event_logs_hide_the_values_of_names_that_read_like_secrets(name: str, hidden: bool) -> None:
    pattern = session_settings(SparkSettings(), "local[2]")["spark.redaction.regex"]
    assert bool(re.search(pattern, name)) is hidden
