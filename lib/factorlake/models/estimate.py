"""What training and lists of a given size need: the plan, memory, disk, time. No Spark, no data, only sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from factorlake.errors import ConfigError
from factorlake.types import PlanName

from .blocks import number_of_blocks

GIB = 1 << 30
DRIVER_MEMORY = 6 * GIB
"""Bytes up to which `auto` lets the driver hold ratings and factors (local), or factors alone (broadcast)."""

# Core-seconds, from `python -m benchmarks.scale`, `train_als` and `top_k` on two cores of an AMD EPYC that gathers rows
# of 256 bytes at 21 to 36 GB/s, 2026-11. Other machines and other data take up to two and a half times as long, or half
# as long; what grows with what does not change.
PACK_PER_PAIR: dict[str, float] = {"local": 0.13e-6, "broadcast": 0.27e-6, "shuffle": 0.27e-6}
PACK_THROUGH_SPARK = 0.35e-6
"""Of a pair with text ids that Spark hands over as a row, where tasks do not read it from a file themselves. What it
takes to make pairs of events is not in it."""
JOBS_OF_PACKING: dict[str, int] = {"local": 2, "broadcast": 10, "shuffle": 10}
EPOCH_PER_PAIR_AND_FACTOR = 0.04e-6 / 64
EPOCH_SHARE: dict[str, float] = {"local": 1.0, "broadcast": 1.0, "shuffle": 1.5}
"""What a plan's epoch takes, where the local one's is 1, beside the jobs: it moves rows through files."""
NEAR = 32 << 20
FARTHER_CODES, FARTHER_ROWS = 0.25, 0.5
"""By so much longer it takes to pack, and to read rows, with each doubling of the factors beyond NEAR bytes."""
LAST_PER_PAIR = 0.1e-6 / 64
"""Of the exact half step at the end, by rank: most rows are shorter than it, and their dual systems cost less."""
LAST_PER_USER = 10e-6 / 64**2
"""Of the same, by the square of the rank."""
SCORE_PER_PRODUCT = 2 / 90e9
"""Of a user's and an item's factor: a multiplication and an addition at sgemm's speed."""
ITEMS_MET = 12_000
"""By each user before norm bounds end the search."""
READ_SEEN = 0.1e-6
"""Of a pair that a user has seen."""
WRITE_ROW = 2.5e-6
"""Of a row of the lists, on its way through Spark into a Delta table."""
JOBS_OF_LISTS = 10
JOB_SECONDS = 0.2
JOBS_PER_EPOCH: dict[str, int] = {"local": 0, "broadcast": 4, "shuffle": 6}
"""Jobs, and what the driver does between them, in the time of jobs."""

PYTHON = 0.2 * GIB
"""A Python process with NumPy, numba and Arrow."""
CODES, PLACED, NEIGHBOURS = 8, 16, 4
"""Bytes of a pair: as two codes, as two positions by block both ways, as a neighbour in a block."""
ENCODED = 32
"""Bytes of a pair while a partition's ids become codes, beside its ids as they came."""
PAIRS_OF_PARTITION = 16_000_000
"""Most pairs of a task that reads files itself. Spark gives a task 128 MiB of files, where a pair takes some five
bytes: up to 25 million pairs."""
ROW_OF_LIST = 30
ROW_OF_FACTORS = 40


@dataclass(frozen=True)
class Load:
    """How much there is to do."""

    users: int
    items: int
    pairs: int
    """Distinct (user, item) pairs: events of one pair are one."""
    rank: int
    epochs: int
    k: int
    id_bytes: int = 12
    """Of an id in Arrow's memory: of a string its bytes and four more."""
    user_columns: int = 0
    """Of features of users; 0: none."""
    item_columns: int = 0
    from_files: bool = False
    """Whether pairs are columns of Parquet files that tasks read themselves; a log's pairs are made by Spark."""

    def __post_init__(self) -> None:
        for name in ("users", "items", "pairs", "rank", "epochs", "k", "id_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def factors(self) -> int:
        """Bytes of one copy of both sides' factors."""
        return (self.users + self.items) * self.rank * 4

    @property
    def features(self) -> int:
        """Bytes of both sides' rows of features."""
        return (self.users * self.user_columns + self.items * self.item_columns) * 4

    @property
    def rows(self) -> int:
        """Bytes of the rows that training holds at most: both sides' as they are, turned, and solved anew, and those of
        features."""
        return 4 * self.factors + self.features


@dataclass(frozen=True)
class Cluster:
    """Machines to work on."""

    name: str
    workers: int
    cores: int
    """Of each worker; tasks run one to a core."""

    @property
    def is_local(self) -> bool:
        return self.workers == 1


CLUSTERS = (Cluster("one machine", 1, 4), Cluster("4 workers", 4, 8), Cluster("16 workers", 16, 16))


@dataclass(frozen=True)
class Estimate:
    """What one cluster needs for a load. Memory and disk in bytes."""

    cluster: Cluster
    plan: PlanName
    why: str
    driver_memory: float
    """Of the driver's Python; its JVM has what spark.driver_memory says."""
    worker_memory: float
    """Of all Python workers of one machine."""
    disk: float
    """Under the root while training runs."""
    seconds: dict[str, float]
    """By part: pack, epochs, last half step, lists."""
    written: float
    """Factor tables and lists, before compression."""

    @property
    def core_hours(self) -> float:
        return sum(self.seconds.values()) * self.cluster.workers * self.cluster.cores / 3600


def local_memory(load: Load) -> float:
    """Return the bytes the plan `local` holds at most: pairs as codes, as positions and both ways, and rows."""
    return load.pairs * (2 * CODES + 2 * NEIGHBOURS) + load.rows


def choose_plan(plan: PlanName, is_local: bool, by_file: bool, load: Load) -> tuple[PlanName, str]:
    """Return (plan, why).

    `auto` lets the driver hold as much as fits: ratings and rows of factors and features where Spark itself is local
    (local), rows (broadcast), nothing (shuffle, for workers that see the workspace).

    Raises
    ------
    ConfigError : the plan is shuffle and workers do not see the workspace.
    """
    all_of_it = local_memory(load)
    estimate = f"{(all_of_it - load.rows) / 2**20:.0f} MiB of ratings, {4 * load.factors / 2**20:.0f} MiB of factors"
    if load.features:
        estimate += f", {load.features / 2**20:.0f} MiB of features"
    most = f"{DRIVER_MEMORY // GIB} GiB for the driver"
    if plan == "shuffle" and not by_file:
        raise ConfigError(
            "plan shuffle needs a root that driver and workers see as one folder (a shared or mounted file system); "
            "give such a root, or take plan broadcast, whose factors travel with the tasks"
        )
    if plan != "auto":
        return plan, f"set in the settings; {estimate}"
    if is_local and all_of_it <= DRIVER_MEMORY:
        return "local", f"{estimate}, fits the driver"
    if by_file and load.rows > DRIVER_MEMORY:
        return "shuffle", f"{estimate}; rows are more than {most}"
    if is_local:
        return "broadcast", f"{estimate}, more than {most}"
    return "broadcast", f"{estimate}; Spark has workers of its own"


def estimate(load: Load, cluster: Cluster, plan: PlanName = "auto") -> Estimate:
    """Return what a load needs under a plan on a cluster whose workers see the root."""
    plan, why = choose_plan(plan, cluster.is_local, True, load)
    cores = cluster.workers * cluster.cores
    pairs_of_block = load.pairs / number_of_blocks(load.pairs)
    rows = max(load.users, load.items) * load.rank * 4
    encoding = load.pairs / _tasks_that_read(load, cores) * (ENCODED + 2 * load.id_bytes)
    if plan == "local":
        driver, worker = PYTHON + local_memory(load), cluster.cores * (PYTHON + encoding)
        disk = load.pairs * CODES
    else:
        # A block's pairs, gathered and sorted while it is packed.
        block = pairs_of_block * (PLACED + 2 * NEIGHBOURS)
        # In float64 in the last half step.
        seen = 0 if plan == "broadcast" else 2 * min(rows, pairs_of_block * load.rank * 4)
        shared = rows if plan == "broadcast" else 0
        driver = PYTHON + (load.rows if plan == "broadcast" else 0)
        worker = max(cluster.cores * (PYTHON + encoding), cluster.cores * (PYTHON + block + seen) + shared)
        disk = load.pairs * (PLACED + max(CODES, 2 * NEIGHBOURS)) + (6 if plan == "shuffle" else 2) * load.factors
        disk += load.features if plan == "shuffle" else 0
    # Users are solved on all events, and lists made, with all items at hand: the driver numbers and ships them, each
    # worker's process turns them in float64.
    items = load.items * load.rank * 4
    return Estimate(
        cluster=cluster,
        plan=plan,
        why=why,
        driver_memory=max(driver, PYTHON + 4 * items),
        worker_memory=max(worker, cluster.cores * (PYTHON + 4 * items)),
        disk=disk,
        seconds=_seconds(load, plan, cores),
        written=(load.users + load.items) * (4 * load.rank + ROW_OF_FACTORS) + load.users * load.k * ROW_OF_LIST,
    )


def _tasks_that_read(load: Load, cores: int) -> int:
    return max(cores, -(-load.pairs // PAIRS_OF_PARTITION))


def _seconds(load: Load, plan: PlanName, cores: int) -> dict[str, float]:
    doublings = math.log2(max(1.0, load.factors / NEAR))
    pack = load.pairs * PACK_PER_PAIR[plan] * (1 + FARTHER_CODES * doublings)
    if not load.from_files:
        pack += load.pairs * PACK_THROUGH_SPARK
    near = load.pairs * load.rank * EPOCH_PER_PAIR_AND_FACTOR * EPOCH_SHARE[plan]
    epoch = near * (1 + FARTHER_ROWS * doublings)
    last = load.pairs * load.rank * LAST_PER_PAIR + load.users * load.rank**2 * LAST_PER_USER
    scores = load.users * min(load.items, ITEMS_MET) * load.rank * SCORE_PER_PRODUCT
    lists = scores + load.pairs * READ_SEEN + load.users * load.k * WRITE_ROW
    return {
        "pack": pack / cores + JOBS_OF_PACKING[plan] * JOB_SECONDS,
        "epochs": load.epochs * (epoch / cores + JOBS_PER_EPOCH[plan] * JOB_SECONDS),
        "last half step": last / cores,
        "lists": lists / cores + JOBS_OF_LISTS * JOB_SECONDS,
    }
