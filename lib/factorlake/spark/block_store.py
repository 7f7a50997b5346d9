"""Rating blocks where the workers are: a memory-mapped copy in the worker's own scratch folder, refilled from the
table."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factorlake.types import RatingBlock

_ARRAYS = {"row_ptr": np.int64, "neighbours": np.int32, "values": np.float32, "hashes": np.int64}


@dataclass(frozen=True)
class StoredBlock:
    """Where one block's row lies in the durable table."""

    number: int
    file: str
    """Parquet file of the table that holds this block and nothing else."""
    n_obs: int


def load_block(stored: StoredBlock, store: str) -> RatingBlock:
    """Return a block from this worker's copy; when there is none, make it from the table first.

    ``store`` names the run's copies. They lie in Spark's scratch folder, which Spark removes with the executor.
    """
    folder = Path(os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")[0]) / f"factorlake-{store}"
    copy = folder / Path(stored.file).stem
    if not copy.is_dir():
        _refill(stored, copy)
    values = copy / "values.npy"
    return RatingBlock(
        first_row=int(np.load(copy / "first_row.npy", allow_pickle=False)),
        row_ptr=_mapped(copy / "row_ptr.npy"),
        neighbours=_mapped(copy / "neighbours.npy"),
        values=_mapped(values) if values.exists() else None,
        hashes=_mapped(copy / "hashes.npy"),
    )


def _mapped(file: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return array


def _refill(stored: StoredBlock, copy: Path) -> None:
    """Write the copy beside its place and move it in at once: tasks of one machine may do this at the same moment."""
    row = pq.ParquetFile(stored.file).read().to_pylist()[0]
    copy.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=copy.parent))
    np.save(fresh / "first_row.npy", np.int64(row["first_row"]))
    for name, kind in _ARRAYS.items():
        if row[name] is not None:
            np.save(fresh / f"{name}.npy", np.frombuffer(row[name], kind))
    try:
        fresh.rename(copy)
    except OSError:  # another task was first; its copy is the same
        if not copy.is_dir():
            raise
