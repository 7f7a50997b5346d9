"""Where the trials of the soak are made: a lake at each stage of a night, prepared once for a commit, a session that
stays warm, drivers that wait for work, and the verdict on what a trial left."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from deploy.standalone.cluster import StandaloneCluster
from factorlake.config.settings import Settings
from factorlake.pipelines.demo import prepare_demo_log
from factorlake.tables import delta_io
from factorlake.tables.delta_io import Commit
from tests.faults.driver import ENDED, HELD, READY
from tests.faults.ledger import CHECKOUT
from tests.faults.polling_reader import Checksums, Look, look
from tests.faults.processes import kill_session
from tests.pipelines.demo_lake import demo_settings, overrides, run_verb
from tests.reference.contents import rows_of, tables_of

# A night over a lake that has a published model: each stage leads from one prepared lake to the next.
STAGES = ("ingest", "validate", "train", "evaluate", "recommend", "publish", "rollback", "maintain")
# Small, with Spark tasks in every stage, and a gate that lets any model pass.
SMALL = (
    "demo.listeners=60",
    "demo.tracks=40",
    "train.rank=4",
    "train.epochs=3",
    "train.plan=broadcast",
    "train.checkpoint_seconds=0",
    "validate.expectations=null",
    "publish.gate=false",
)
TODAY = "2025-03-05"
DRIVER = ("spark.master=local[2]", "spark.driver_memory=1g", "spark.shuffle_partitions=2")
# A job of these lakes takes seconds, on a machine that is busy with other things a minute or two.
STUCK_SECONDS = 600.0
GOOD = (0, 99)


# Small disks under the scratch folder, where they could be mounted: for a lake, and the session's own.
LAKE_DISK, LOCAL_DISK = "small", "local"


def scratch_of(folder: Path) -> Path:
    """Return where this process makes its trials: several soaks may share the lakes."""
    return folder / f"scratch-{os.getpid()}"


@dataclass
class Verdict:
    """What a trial found; ``ledger.Trial`` says what each means."""

    what: str
    landed: bool = True
    exit_codes: list[int] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0
    torn: int = 0
    wrong_exit: bool = False
    stuck: bool = False

    def ended(self, code: int | None, *good: int) -> None:
        """Note how a job ended that should have ended with one of the codes; None: it had to be ended."""
        if code is None:
            self.stuck = True
        else:
            self.exit_codes.append(code)
            self.wrong_exit |= code not in good

    def count(self, wanted: Counter[str], found: Counter[str]) -> None:
        """Count the rows of a table that are missing, and those too many."""
        self.lost += (wanted - found).total()
        self.duplicated += (found - wanted).total()


class Driver:
    """`tests.faults.driver` in a session of processes of its own."""

    def __init__(self, scratch: Path, name: str, environment: dict[str, str] | None = None, *more: str) -> None:
        self.log = scratch / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.driver", *DRIVER, *more],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._is_up = False
        self.said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(line.strip())
        self.said.put(None)

    def _hear(self, *words: str) -> str | None:
        """Return the next of these words that it says; None when it ends before, or takes too long."""
        while True:
            try:
                line = self.said.get(timeout=STUCK_SECONDS)
            except queue.Empty:
                return None
            if line is None or line.split(" ")[0] in words:
                return line

    def start(self, verb: str, settings: list[str], point: str = "", **options: Any) -> None:
        """Begin a job once its session is up."""
        if not self._is_up and self._hear(READY) is None:
            raise RuntimeError(f"no session: see {self.log}")
        self._is_up = True
        self._tell(json.dumps({"verb": verb, "settings": settings, "point": point, "options": options}))

    def wait_held(self) -> bool:
        """Wait until it holds at its point; False when it ended before."""
        return self._hear(HELD) is not None

    def go_on(self) -> None:
        self._tell("")

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def has_ended(self) -> bool:
        """Whether its job is over, or it said anything else that nobody has heard yet."""
        return not self.said.empty()

    def wait_ended(self) -> int | None:
        """Wait until its job is over, and return the job's exit code; None when it takes too long."""
        line = self._hear(ENDED)
        return None if line is None else int(line.split(" ")[1])

    def code(self, seconds: float = STUCK_SECONDS) -> int | None:
        """Let it end after this job, and return its exit code; None when it takes longer, and then it is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def kill(self) -> None:
        kill_session(self.process.pid)
        self.process.wait()


class Reader:
    """`tests.faults.polling_reader` at a lake, and what it saw."""

    def __init__(self, root: Path) -> None:
        self.out, self._stop = root / "seen", root / "stop"
        self.out.touch()
        command = [sys.executable, "-m", "tests.faults.polling_reader", str(root / "main"), str(self.out)]
        self.process = subprocess.Popen([*command, str(self._stop)], cwd=CHECKOUT)

    def seen(self) -> list[Look]:
        whole = [line for line in self.out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Look(**json.loads(line)) for line in whole]

    def look_again(self) -> None:
        """Wait until it has read everything once more from the beginning."""
        wanted = len(self.seen()) + 2
        while len(self.seen()) < wanted:
            if self.process.poll() is not None:
                raise RuntimeError("the reader met an error")
            time.sleep(0.02)

    def end(self) -> list[Look]:
        """End it, and return all that it saw."""
        self._stop.touch()
        if self.process.wait() != 0:
            raise RuntimeError("the reader met an error")
        return self.seen()


class Bench:
    """Lakes before each stage, and what may be done to them."""

    def __init__(self, spark: SparkSession, folder: Path, commit: str, stages: tuple[str, ...] = STAGES) -> None:
        """Prepare the lakes, where ``folder`` does not hold those of the commit. ``stages``: of a night, from its
        beginning."""
        self.spark = spark
        self.folder = folder
        self.stages = stages
        self.log = folder / "log"
        self.scratch = scratch_of(folder)
        self._rows: dict[str, dict[str, Counter[str]]] = {}
        self._spare: Driver | None = None
        self._started = 0
        self._held = ExitStack()
        self._on_cluster: tuple[StandaloneCluster, Driver] | None = None
        self.scratch.mkdir(parents=True, exist_ok=True)
        notes = folder / "prepared.json"
        if not notes.exists() or json.loads(notes.read_text())["commit"] != commit:
            notes.write_text(json.dumps({"commit": commit, **self._prepare()}))
        prepared = json.loads(notes.read_text())
        self.commits: dict[str, list[str]] = prepared["commits"]
        """The tables that each stage commits to, in turn."""
        self.seconds: dict[str, float] = prepared["seconds"]
        """How long each stage takes in the warm session."""
        self.sets: dict[str, Checksums] = {}
        """What each model publishes."""
        for stage in (*stages, "end"):
            seen = look(self.prepared(stage) / "main")
            self.sets[seen.model] = seen.pinned

    def prepared(self, stage: str) -> Path:
        """The lake as it is before a stage; after all of them under the name `end`."""
        return self.folder / "lakes" / stage

    def after(self, stage: str) -> Path:
        """The lake as it is after a stage that nobody disturbed."""
        return self.prepared((*self.stages, "end")[self.stages.index(stage) + 1])

    def settings_of(self, root: Path, *more: str) -> list[str]:
        return overrides(root, self.log, *SMALL, "demo=null", *more)

    def settings(self, root: Path, *more: str) -> Settings:
        return demo_settings(root, self.log, *SMALL, "demo=null", *more)

    def _prepare(self) -> dict[str, Any]:
        """Run a night, and leave a copy of the lake before each of its stages; return what was noted of them."""
        for name in ("lakes", "log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        root = self.scratch / "lake"
        prepare_demo_log(demo_settings(root, self.log, *SMALL))
        later = self.folder / "later"
        later.mkdir(exist_ok=True)
        for path in sorted((self.log / "events").glob(f"{TODAY}*")):
            path.rename(later / path.name)
        self._must_run("run", root)
        for path in sorted(later.iterdir()):
            path.rename(self.log / "events" / path.name)
        commits: dict[str, list[str]] = {}
        seconds: dict[str, float] = {}
        for stage in self.stages:
            shutil.copytree(root, self.prepared(stage))
            began = time.monotonic()
            with noting_commits() as commits[stage]:
                self._must_run(stage, root)
            seconds[stage] = round(time.monotonic() - began, 2)
        shutil.copytree(root, self.prepared("end"))
        return {"commits": commits, "seconds": seconds}

    def _must_run(self, verb: str, root: Path) -> None:
        line = run_verb(self.spark, verb, self.settings(root))
        if line["exit_code"] not in GOOD:
            raise RuntimeError(f"{verb}: {line['reason']}")

    def copy(self, stage: str, into: Path | None = None) -> Path:
        """Return a new copy of the lake before a stage."""
        self._started += 1
        return Path(shutil.copytree(self.prepared(stage), (into or self.scratch) / f"lake{self._started}"))

    def driver(self, *more: str, environment: dict[str, str] | None = None) -> Driver:
        """Return a driver whose session, in a JVM of its own, is coming up."""
        self._started += 1
        return Driver(self.scratch, f"driver{self._started}", environment, *more)

    def quick_driver(self) -> Driver:
        """Return a driver with a session in the warm session's JVM. The next one is started already."""
        gateway = self.spark.sparkContext._gateway
        assert gateway is not None
        parameters = gateway.gateway_parameters
        there = {"PYSPARK_GATEWAY_PORT": str(parameters.port), "PYSPARK_GATEWAY_SECRET": str(parameters.auth_token)}
        taken = self._spare or self.driver(environment={**os.environ, **there})
        self._spare = self.driver(environment={**os.environ, **there})
        return taken

    def on_cluster(self) -> tuple[StandaloneCluster, Driver]:
        """Return a cluster of two workers and a driver on it; both are up until the bench closes."""
        if self._on_cluster is None:
            cluster = self._held.enter_context(StandaloneCluster(self.scratch / "cluster"))
            conf = json.dumps({"spark.scheduler.minRegisteredResourcesRatio": "1.0", "spark.executor.memory": "1g"})
            driver = self.driver(f"spark.master={cluster.master_url}", f"spark.conf={conf}")
            self._held.callback(driver.kill)
            self._on_cluster = cluster, driver
        return self._on_cluster

    def tidy(self) -> None:
        """Remove the lakes of the trials so far."""
        for lake in self.scratch.glob("lake*"):
            shutil.rmtree(lake)

    def close(self) -> None:
        if self._spare is not None:
            self._spare.kill()
        self._held.close()
        self.tidy()

    def run(self, verb: str, root: Path, *more: str, **options: Any) -> int | None:
        """Run a job in the warm session; return its exit code, None when it had to be ended."""
        over = threading.Event()
        ended = threading.Event()

        def watch() -> None:
            if not over.wait(STUCK_SECONDS):
                ended.set()
                self.spark.sparkContext.cancelAllJobs()

        watchdog = threading.Thread(target=watch, daemon=True)
        watchdog.start()
        try:
            line = run_verb(self.spark, verb, self.settings(root, *more), **options)
        finally:
            over.set()
            watchdog.join()
        return None if ended.is_set() else int(line["exit_code"])

    def look(self, verdict: Verdict, root: Path) -> None:
        """Look at what is published as a consumer does."""
        verdict.torn += int(look(root / "main").is_mixed(self.sets))

    def compare(self, verdict: Verdict, root: Path, stage: str) -> None:
        """Count what a lake lacks of the undisturbed one after ``stage``, and what it has too much."""
        self.look(verdict, root)
        if stage not in self._rows:
            self._rows[stage] = contents(self.after(stage))
        wanted, found = self._rows[stage], contents(root)
        for name in {*wanted, *found}:
            verdict.count(wanted.get(name, Counter()), found.get(name, Counter()))

    def compare_events(self, verdict: Verdict, root: Path) -> None:
        """The same of a lake whose files came elsewhere or at other times: of its events after validation, whatever the
        batch."""
        self.look(verdict, root)
        wanted, found = contents(self.after("validate"), "batch"), contents(root, "batch")
        for name in ("interactions", "users", "items"):
            verdict.count(wanted[name], found[name])

    def recover(self, verdict: Verdict, root: Path, stage: str, **options: Any) -> None:
        """Run the stage again, undisturbed, and judge."""
        self.look(verdict, root)
        verdict.ended(self.run(stage, root, **options), *GOOD)
        self.compare(verdict, root, stage)


def contents(root: Path, *leave_out: str) -> dict[str, Counter[str]]:
    """Return the rows of every table of a lake but `runs`, without some columns; a register's rows once each."""
    return {name: Counter(rows_of(path, leave_out)) for name, path in tables_of(root).items() if name != "runs"}


@contextmanager
def noting_commits() -> Iterator[list[str]]:
    """Note the tables that are written to, in turn."""
    names: list[str] = []
    write = delta_io._write

    def writes(*arguments: Any) -> Commit:
        names.append(Path(arguments[1]).name)
        return write(*arguments)

    delta_io._write = writes  # type: ignore[assignment]
    try:
        yield names
    finally:
        delta_io._write = write
