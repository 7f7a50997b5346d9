"""The parent of Spark's Python workers, without a cost that every task would pay.

Before each task a stock worker clears the import caches, and on Python 3.11 each path entry inside pyspark.zip then
reads the whole directory of that archive again: about 0.2 s of CPU per task. No archive changes while a job runs,
so the caches of archives stay. Named by `spark.python.daemon.module`; only for workers whose own environment holds
this package.
"""

from __future__ import annotations

import zipimport

from pyspark.daemon import manager


def _keep_caches(_: zipimport.zipimporter) -> None:
    """Stand in for zipimporter.invalidate_caches."""


if __name__ == "__main__":
    zipimport.zipimporter.invalidate_caches = _keep_caches  # type: ignore[assignment]
    manager()
