"""The kinds of faults of the soak. A trial takes a lake before one stage of a night, strikes, runs the stage
again undisturbed, and judges. The seed says which stage, where and when."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.standalone.cluster import spark_home
from tests.faults.bench import GOOD, LAKE_DISK, LOCAL_DISK, STAGES, STUCK_SECONDS, TODAY, Bench, Reader, Verdict
from tests.faults.processes import command_line, is_told_to_end, members_of, python_workers, signal_each

# Stages that read and write by Spark's tasks, of which some run Python.
WITH_TASKS = ("validate", "train", "evaluate", "recommend", "publish")
WITH_PYTHON = ("train", "recommend")
# Errors of the surroundings end as unexpected, or as transient where the job knows them to be.
FAILED = (1, 4)
REFUSED = 3
STOPPED = 4
HELD_BY_ANOTHER = 5
N_EXECUTORS = 2
DAY = 86_400
TERM_SECONDS = 10.0
N_EXECUTORS = 2
DAY = 86_400
TERM_SECONDS = 10.0
# The limit of the session, an hour, and that of a trial.
IDLE_LIMIT = "spark.sql.execution.pyspark.udf.idleTimeoutSeconds"
HUNG_SECONDS = 5


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its trial by seed, how many trials are the whole of it, and whether one of them belongs to the
    fast selection: it starts no JVM."""

    name: str
    trial: Callable[[Bench, int], Verdict]
    trials: int
    fast: bool = False


def killed_at_point(bench: Bench, seed: int) -> Verdict:
    points = [
        (stage, f"{where} {number}", table)
        for stage in bench.stages
        for number, table in enumerate(bench.commits[stage], start=1)
        for where in ("before", "after")
    ]
    # Neighbouring seeds strike in different stages.
    stage, point, table = points[seed * 7 % len(points)]
    verdict, root, driver = Verdict(f"{stage} {point}: {table}"), bench.copy(stage), bench.quick_driver()
    driver.start(stage, bench.settings_of(root), point)
    verdict.landed = driver.wait_held()
    driver.kill()
    bench.recover(verdict, root, stage)
    return verdict


def killed_at_random(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"killed:{seed}")
    stage = draw.choice(STAGES)
    seconds = draw.uniform(0, bench.seconds[stage])
    verdict, root, driver = Verdict(f"{stage} after {seconds:.2f} s"), bench.copy(stage), bench.driver()
    driver.start(stage, bench.settings_of(root))
    verdict.landed = _is_running_after(driver.process, seconds)
    driver.kill()
    bench.recover(verdict, root, stage)
    return verdict


def killed_under_reader(bench: Bench, seed: int) -> Verdict:
    """A consumer in a process of its own reads over and over while a publish or a rollback is killed and run again."""
    draw = random.Random(f"reader:{seed}")
    stage = draw.choice(("publish", "rollback"))
    number, where = draw.randint(1, len(bench.commits[stage])), draw.choice(("before", "after"))
    verdict, root, driver = Verdict(f"{stage} {where} {number}"), bench.copy(stage), bench.quick_driver()
    reader = Reader(root)
    driver.start(stage, bench.settings_of(root), f"{where} {number}")
    verdict.landed = driver.wait_held()
    driver.kill()
    reader.look_again()
    bench.recover(verdict, root, stage)
    reader.look_again()
    verdict.torn += sum(seen.is_mixed(bench.sets) for seen in reader.end())
    return verdict


def told_to_stop(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"stopped:{seed}")
    stage = draw.choice(STAGES)
    seconds = draw.uniform(0.2, 0.8 * bench.seconds[stage])
    verdict, root, driver = Verdict(f"{stage} after {seconds:.2f} s"), bench.copy(stage), bench.driver()
    driver.start(stage, bench.settings_of(root))
    if _is_running_after(driver.process, seconds):
        os.killpg(driver.process.pid, signal.SIGTERM)
    code = driver.code(TERM_SECONDS)
    verdict.ended(code, *GOOD, STOPPED)
    verdict.landed = code not in GOOD
    bench.recover(verdict, root, stage)
    return verdict


def slept_past_lease(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"slept:{seed}")
    stage = draw.choice(("validate", "train", "recommend", "publish", "rollback"))
    number = draw.randint(1, len(bench.commits[stage]))
    where = draw.choice(("before", "after"))
    verdict, root, driver = Verdict(f"{stage} {where} {number}"), bench.copy(stage), bench.quick_driver()
    driver.start(stage, bench.settings_of(root), f"{where} {number}")
    verdict.landed = driver.wait_held()
    asleep = members_of(driver.process.pid)
    signal_each(asleep, signal.SIGSTOP)
    for folder in (root / "_lease", root / "main" / "_lease"):
        for file in folder.glob("*.json"):
            # As if its time had passed.
            os.utime(file, (0, 0))
    verdict.ended(bench.run(stage, root), *GOOD)
    bench.look(verdict, root)
    signal_each(asleep, signal.SIGCONT)
    driver.go_on()
    # Past its last commit it has nothing to publish any more, and only its end to tell.
    last = (where, number) == ("after", len(bench.commits[stage]))
    verdict.ended(driver.code(), *(GOOD if last else (HELD_BY_ANOTHER,)))
    bench.compare(verdict, root, stage)
    return verdict


def two_starts(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"two:{seed}")
    stage = draw.choice(STAGES)
    seconds = draw.uniform(0, bench.seconds[stage])
    verdict, root, driver = Verdict(f"{stage}, {seconds:.2f} s apart"), bench.copy(stage), bench.quick_driver()
    driver.start(stage, bench.settings_of(root))
    verdict.landed = _is_running_after(driver.process, seconds)
    second = bench.run(stage, root)
    first = driver.code()
    verdict.ended(first, *GOOD, HELD_BY_ANOTHER)
    # One of the two did the work.
    verdict.ended(second, *(GOOD if first == HELD_BY_ANOTHER else (*GOOD, HELD_BY_ANOTHER)))
    bench.compare(verdict, root, stage)
    return verdict


def clock_jumps(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"clock:{seed}")
    stage = draw.choice(("validate", "train", "recommend", "publish"))
    days, seconds = draw.choice((-1, 1)), draw.uniform(0, 0.8 * bench.seconds[stage])
    verdict, root = Verdict(f"{stage} {days:+d} day after {seconds:.2f} s"), bench.copy(stage)
    jump = root / "clock"
    jump.write_bytes(struct.pack("l", 0))
    driver = bench.driver(
        environment={**os.environ, "LD_PRELOAD": str(built_clock(bench.folder)), "FACTORLAKE_CLOCK": str(jump)}
    )
    driver.start(stage, bench.settings_of(root))
    verdict.landed = _is_running_after(driver.process, seconds)
    with jump.open("r+b") as file:
        file.write(struct.pack("l", days * DAY))
    verdict.ended(driver.code(), *GOOD)
    # The clock is right again for the rest of the night.
    rest = STAGES[STAGES.index(stage) : STAGES.index("maintain")]
    for name in rest:
        bench.look(verdict, root)
        verdict.ended(bench.run(name, root), *GOOD)
    bench.compare(verdict, root, rest[-1])
    return verdict


def no_delta_jar(bench: Bench, seed: int) -> Verdict:
    stage = STAGES[seed % len(STAGES)]
    verdict, root = Verdict(stage), bench.copy(stage)
    home = root / "spark"
    home.mkdir()
    for path in spark_home().iterdir():
        if path.name != "jars":
            (home / path.name).symlink_to(path)
    (home / "jars").mkdir()
    for path in (spark_home() / "jars").glob("*.jar"):
        if not path.name.startswith("delta-"):
            (home / "jars" / path.name).symlink_to(path)
    sets = [part for value in bench.settings_of(root, "spark.master=local[1]") for part in ("--set", value)]
    conf = str(Path(__file__).resolve().parents[2] / "conf" / "base" / "demo.yaml")
    command = [sys.executable, "-m", "factorlake.cli", stage, "--config", conf, *sets]
    program = [sys.executable, "-c", "from factorlake.cli import main; main()", *command[3:]]
    done = subprocess.run(program, env={**os.environ, "SPARK_HOME": str(home)}, capture_output=True, check=False)
    verdict.ended(done.returncode, 1, 2)
    shutil.rmtree(home)
    bench.recover(verdict, root, stage)
    return verdict


def worker_killed(bench: Bench, seed: int) -> Verdict:
    """The session tries a task four times: the job ends well, with the same factors and lists."""
    draw = random.Random(f"worker:{seed}")
    stage = draw.choice(WITH_PYTHON)
    verdict, root = Verdict(stage, landed=False), bench.copy(stage)
    with _at_work(bench, draw) as struck:
        verdict.ended(bench.run(stage, root), *GOOD)
    verdict.landed = bool(struck)
    bench.recover(verdict, root, stage)
    return verdict


def tasks_slow(bench: Bench, seed: int) -> Verdict:
    """Workers are stopped for some seconds, which tasks of these lakes take parts of."""
    draw = random.Random(f"slow:{seed}")
    stage, seconds = draw.choice(WITH_PYTHON), draw.uniform(2, 5)
    verdict, root = Verdict(f"{stage}, {seconds:.1f} s"), bench.copy(stage)
    with _at_work(bench, draw, stopped_for=seconds) as struck:
        verdict.ended(bench.run(stage, root), *GOOD)
    verdict.landed = bool(struck)
    bench.recover(verdict, root, stage)
    return verdict


def worker_hung(bench: Bench, seed: int) -> Verdict:
    """Workers make no progress until they are told to end: Spark ends them after its limit, and tries again."""
    draw = random.Random(f"hung:{seed}")
    stage = draw.choice(WITH_PYTHON)
    verdict, root = Verdict(stage, landed=False), bench.copy(stage)
    with _at_work(bench, draw, stopped_for=STUCK_SECONDS) as struck:
        verdict.ended(bench.run(stage, root), *GOOD)
    verdict.landed = bool(struck)
    bench.recover(verdict, root, stage)
    return verdict


def executor_killed(bench: Bench, seed: int) -> Verdict:
    """A driver of a standalone cluster loses one of its two executors: the job ends well, with the same bits."""
    draw = random.Random(f"executor:{seed}")
    stage = WITH_PYTHON[int(seed % 3 == 2)]
    cluster, driver = bench.on_cluster()
    seconds = draw.uniform(0, bench.seconds[stage])
    verdict, root = Verdict(f"{stage} after {seconds:.2f} s", landed=False), bench.copy(stage)
    executors: list[int] = []
    # The one that was killed last may not have been replaced yet.
    deadline = time.monotonic() + STUCK_SECONDS
    while len(executors) < N_EXECUTORS and time.monotonic() < deadline:
        time.sleep(0.2)
        members = [pid for session in cluster.sessions() for pid in members_of(session)]
        executors = [pid for pid in members if b"CoarseGrainedExecutorBackend" in command_line(pid)]
    driver.start(stage, bench.settings_of(root))
    time.sleep(seconds)
    verdict.landed = not driver.has_ended()
    signal_each([draw.choice(sorted(executors))], signal.SIGKILL)
    verdict.ended(driver.wait_ended(), *GOOD)
    bench.compare(verdict, root, stage)
    return verdict


def scratch_full(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"scratch:{seed}")
    stage, left = draw.choice(WITH_TASKS), draw.choice((0, 4096, 16384))
    verdict, root = Verdict(f"{stage}, {left} bytes left"), bench.copy(stage)
    with _full(bench.scratch / LOCAL_DISK, left):
        code = bench.run(stage, root)
    verdict.landed = code not in GOOD
    verdict.ended(code, *GOOD, *FAILED)
    bench.recover(verdict, root, stage)
    return verdict


def lake_full(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"full:{seed}")
    stage, left = draw.choice(STAGES[:-1]), draw.choice((0, 4096, 16384, 65536, 262144))
    small = bench.scratch / LAKE_DISK
    verdict, root = Verdict(f"{stage}, {left} bytes left"), bench.copy(stage, into=small)
    with _full(small, left):
        code = bench.run(stage, root)
    verdict.landed = code not in GOOD
    verdict.ended(code, *GOOD, *FAILED)
    bench.recover(verdict, root, stage)
    shutil.rmtree(root)
    return verdict


def read_only(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"read:{seed}")
    stage = draw.choice([stage for stage in bench.stages if stage != "maintain"])
    root = bench.copy(stage)
    written = {path for table in bench.commits[stage] for path in (root / table, root / "main" / table)}
    folder = draw.choice(sorted(path for path in {*written, root, root / "main"} if path.exists()))
    verdict = Verdict(f"{stage}: {folder.relative_to(root)}")
    _set_writable(folder, False)
    try:
        code = bench.run(stage, root)
    finally:
        _set_writable(folder, True)
    verdict.landed = code not in GOOD
    verdict.ended(code, *GOOD, *FAILED)
    bench.recover(verdict, root, stage)
    return verdict


def corrupt_input(bench: Bench, seed: int) -> Verdict:
    draw = random.Random(f"corrupt:{seed}")
    root = bench.copy("ingest")
    events = Path(shutil.copytree(bench.log / "events", root / "arriving"))
    victim = draw.choice(sorted(events.glob(f"{TODAY}*")))
    whole = victim.read_bytes()
    damage = draw.choice(("cut", "noise", "lines", "empty"))
    victim.write_bytes(_damaged(whole, damage, victim.suffix == ".gz", draw))
    verdict = Verdict(f"{victim.name}: {damage}")
    given = f"input={events}"
    for stage in ("ingest", "validate"):
        verdict.ended(bench.run(stage, root, given), *GOOD, REFUSED)
    bench.look(verdict, root)
    victim.write_bytes(whole)
    for stage in ("ingest", "validate"):
        verdict.ended(bench.run(stage, root, given), *GOOD, REFUSED)
    # What the gate did not let in waits; a person looks at it and takes it.
    verdict.ended(bench.run("validate", root, given, "validate.gate.max_quarantined_share=1"), *GOOD)
    bench.compare_events(verdict, root)
    return verdict


def schema_drift(bench: Bench, seed: int) -> Verdict:
    """A mapped column of a file has another name: nothing of the batch is taken, and all of it once it is mended."""
    draw = random.Random(f"drift:{seed}")
    root = bench.copy("ingest")
    events = Path(shutil.copytree(bench.log / "events", root / "arriving"))
    victim = events / f"{TODAY}-web.csv"
    whole = victim.read_text()
    head, _, rows = whole.partition("\n")
    column = draw.choice(("listener", "track", "action", "plays", "at"))
    victim.write_text("\n".join([",".join("renamed" if name == column else name for name in head.split(",")), rows]))
    verdict = Verdict(column)
    given = f"input={events}"
    verdict.ended(bench.run("ingest", root, given), REFUSED)
    bench.look(verdict, root)
    victim.write_text(whole)
    for stage in ("ingest", "validate"):
        verdict.ended(bench.run(stage, root, given), *GOOD)
    bench.compare_events(verdict, root)
    return verdict


def five_reruns(bench: Bench, seed: int) -> Verdict:
    stage = bench.stages[seed % len(bench.stages)]
    verdict, root = Verdict(stage), bench.copy(stage)
    for _ in range(5):
        verdict.ended(bench.run(stage, root), *GOOD)
    bench.compare(verdict, root, stage)
    return verdict


KINDS = {
    kind.name: kind
    for kind in (
        Kind("driver killed at a named point", killed_at_point, 66, fast=True),
        Kind("driver killed at a random time", killed_at_random, 16),
        Kind("publish or rollback killed, a reader polling", killed_under_reader, 50),
        Kind("driver told to stop (SIGTERM)", told_to_stop, 10),
        Kind("driver stopped past its lease (SIGSTOP)", slept_past_lease, 12),
        Kind("two starts at once", two_starts, 12),
        Kind("executor of a cluster killed", executor_killed, 15),
        Kind("clock jumps by a day", clock_jumps, 6),
        Kind("no Delta jar", no_delta_jar, 4),
        Kind("Python workers killed", worker_killed, 16),
        Kind("Python workers hung", worker_hung, 8),
        Kind("slow tasks", tasks_slow, 10),
        Kind("disk full under spark.local.dir", scratch_full, 16),
        Kind("disk full under the lake", lake_full, 16),
        Kind("read-only folder", read_only, 16, fast=True),
        Kind("corrupt input", corrupt_input, 16, fast=True),
        Kind("schema drift", schema_drift, 10, fast=True),
        Kind("run five times", five_reruns, 8, fast=True),
    )
}


def _is_running_after(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


@contextmanager
def _at_work(bench: Bench, draw: random.Random, stopped_for: float | None = None) -> Iterator[list[int]]:
    """Once, while a task runs, kill the session's Python workers, or stop them for some seconds; yields their ids."""
    status = bench.spark.sparkContext.statusTracker()
    struck: list[int] = []
    over = threading.Event()
    skipped = draw.randint(0, 6)

    def strike() -> None:
        left = skipped
        while not over.is_set():
            running = [
                stage
                for stage in status.getActiveStageIds()
                if (info := status.getStageInfo(stage)) and info.numActiveTasks
            ]
            workers = python_workers(os.getpid()) if running else []
            if workers and left <= 0:
                struck.extend(workers)
                if stopped_for is None:
                    signal_each(workers, signal.SIGKILL)
                    return
                signal_each(workers, signal.SIGSTOP)
                deadline = time.monotonic() + stopped_for
                # All go on as soon as one is told to end, since tasks that are tried again may be given to any of them.
                while time.monotonic() < deadline and not any(map(is_told_to_end, workers)) and not over.wait(0.05):
                    pass
                signal_each(workers, signal.SIGCONT)
                return
            left -= bool(workers)
            over.wait(0.02)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


@contextmanager
def _full(disk: Path, left: int) -> Iterator[None]:
    """Fill a disk but for some bytes."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_frsize - left))
        yield
    finally:
        filler.unlink(missing_ok=True)


def _set_writable(folder: Path, writable: bool) -> None:
    """Root writes whatever a file's mode says, but not what is immutable."""
    if os.geteuid() == 0:
        subprocess.run(["chattr", "-R", "-i" if writable else "+i", str(folder)], check=True)
    else:
        subprocess.run(["chmod", "-R", "u+w" if writable else "a-w", str(folder)], check=True)


def _damaged(whole: bytes, damage: str, is_packed: bool, draw: random.Random) -> bytes:
    if damage == "cut" and not is_packed:
        # A few characters into a line: what is cut off elsewhere cannot always be told from what was meant.
        line = draw.randint(1, whole.count(b"\n") - 1)
        return b"\n".join([*whole.split(b"\n")[:line], whole.split(b"\n")[line][:5]])
    if damage == "cut":
        return whole[: draw.randint(1, len(whole) - 2)]
    if damage == "noise":
        return draw.randbytes(len(whole))
    if damage == "empty":
        return b""
    lines = (gzip.decompress(whole) if is_packed else whole).splitlines()
    torn = b"\n".join([*lines[:3], *(line[: draw.randint(0, 12)] for line in lines[3:8]), *lines[8:], b""])
    return gzip.compress(torn) if is_packed else torn


def built_clock(folder: Path) -> Path:
    """Return the library under which a process's clock jumps; built where it is not there yet."""
    library = folder / "clock.so"
    if not library.exists():
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library
