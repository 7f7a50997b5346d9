"""A Spark standalone cluster on loopback: one master and some workers as processes of this machine.

    with StandaloneCluster(folder) as cluster:
        cluster.submit("jobs/train_als.py", "--config", "conf/base/demo.yaml")

Each worker has a work folder and a scratch folder of its own, so that nothing passes between workers but
through Spark or the table root. All ports are free ones that the system chose; all are bound to 127.0.0.1.
From a shell: cluster.sh start, submit and stop.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

CHECKOUT = Path(__file__).resolve().parent.parent.parent
LOOPBACK = "127.0.0.1"
START_SECONDS = 90.0
STOP_SECONDS = 20.0
MASTER_UP = re.compile(r"Starting Spark master at (spark://\S+)")
WORKER_UP = re.compile(r"Successfully registered with master")
# Ends the process when this one closes the pipe or dies, however it dies: the system closes the pipe then.
SUPERVISE = 'exec 3<&0; "$@" 3<&- </dev/null & child=$!; { cat <&3 >/dev/null; kill "$child"; } & wait "$child"'


class ClusterError(Exception):
    """The cluster did not start, or there is none. The message names the log to read."""


class StandaloneCluster:
    """Master and workers as a context manager; leaving it ends every process.

    Parameters
    ----------
    folder : takes the logs, and for each worker its ``work`` and ``scratch`` folders. Made when absent.
    workers, cores, memory : how many workers, and what each has to give (memory as Spark writes it).
    """

    def __init__(self, folder: Path | str, workers: int = 2, cores: int = 1, memory: str = "2g") -> None:
        self.folder = Path(folder).resolve()
        self.workers = workers
        self.cores = cores
        self.memory = memory
        self.master_url = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> StandaloneCluster:
        """Start all processes and wait until every worker is registered.

        Raises
        ------
        ClusterError : a process ended, or did not come up in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.master_url = self._start("master", "org.apache.spark.deploy.master.Master", [], MASTER_UP)
            for number in range(1, self.workers + 1):
                offers = ["--cores", str(self.cores), "--memory", self.memory]
                place = ["--work-dir", str(self.folder / f"worker-{number}" / "work")]
                arguments = [*offers, *place, self.master_url]
                self._start(f"worker-{number}", "org.apache.spark.deploy.worker.Worker", arguments, WORKER_UP)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def submit(
        self, script: str | Path, *arguments: str, conf: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``script`` by spark-submit on this cluster; return its exit code and what it printed."""
        command = submit_command(self.master_url, [str(script), *arguments], conf or {})
        return subprocess.run(command, env=spark_environment(), capture_output=True, text=True, check=False)

    def sessions(self) -> list[int]:
        """Return the session of each process of the cluster; an executor is in its worker's."""
        return [process.pid for process in self._processes]

    def _start(self, name: str, java_class: str, arguments: list[str], up: re.Pattern[str]) -> str:
        """Start one process; return the part of its log that says that it is up."""
        scratch = self.folder / name / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        command = [str(spark_home() / "bin" / "spark-class"), java_class]
        address = ["--host", LOOPBACK, "--port", "0", "--webui-port", "0"]
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", SUPERVISE, name, *command, *address, *arguments],
                env={**spark_environment(), "SPARK_LOCAL_DIRS": str(scratch)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = up.search(log.read_text(encoding="utf-8", errors="replace"))
            if found:
                return found.group(found.lastindex or 0)
            if process.poll() is not None:
                raise ClusterError(f"{name} ended with {process.returncode}; its log is {log}")
            time.sleep(0.1)
        raise ClusterError(f"{name} was not up after {START_SECONDS:.0f} s; its log is {log}")

    def _stop(self) -> None:
        """End the workers, then the master; executors end with their worker."""
        for process in reversed(self._processes):
            if process.stdin is not None:
                process.stdin.close()
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            # What is left of its group: a process that did not heed the signal, an executor without worker.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()


def spark_home() -> Path:
    """Return the folder of the installed pyspark."""
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ClusterError("pyspark is not installed in this environment: make setup")
    return Path(spec.origin).parent


def spark_environment() -> dict[str, str]:
    """Return the environment of every Spark process: this Python on both sides, all addresses on loopback."""
    given = {
        # The master's other entrance would listen on a fixed port.
        "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
        "SPARK_DAEMON_MEMORY": "512m",
        "SPARK_HOME": str(spark_home()),
        "SPARK_LOCAL_IP": LOOPBACK,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }
    return {**os.environ, **given}


def submit_command(master_url: str, script: list[str], conf: Mapping[str, str]) -> list[str]:
    """Return the spark-submit command that runs ``script`` (file and arguments) on the cluster."""
    settings = {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK, **conf}
    pairs = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    return [str(spark_home() / "bin" / "spark-submit"), "--master", master_url, *pairs, *script]


def hold(folder: Path, workers: int) -> None:
    """Keep a cluster up until SIGTERM or SIGINT, its address in ``folder``/address."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), StandaloneCluster(folder, workers=workers) as cluster:
        # Renamed into place: who sees the file sees the whole address.
        partial = folder / "address.partial"
        partial.write_text(cluster.master_url, encoding="utf-8")
        partial.rename(folder / "address")
        signal.pause()


def start(folder: Path, workers: int) -> str:
    """Start a cluster that outlives this process; return its address."""
    if (folder / "address").exists():
        raise ClusterError(f"a cluster is up at {address_of(folder)}: stop it first")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, __file__, "--folder", str(folder), "hold", "--workers", str(workers)]
    with (folder / "holder.log").open("wb") as log:
        holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (folder / "pid").write_text(str(holder.pid), encoding="utf-8")
    while holder.poll() is None:
        if (folder / "address").exists():
            return address_of(folder)
        time.sleep(0.1)
    raise ClusterError(f"the cluster did not start; the logs are in {folder}")


def address_of(folder: Path) -> str:
    """Return the master's address of the cluster that `start` left in ``folder``."""
    try:
        return (folder / "address").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ClusterError(f"no cluster is up in {folder}: cluster.sh start") from error


def stop(folder: Path) -> None:
    """End the cluster that `start` left in ``folder``."""
    try:
        pid = int((folder / "pid").read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ClusterError(f"no cluster is up in {folder}") from error
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.1)
    shutil.rmtree(folder)


def main(arguments: list[str]) -> int:
    """Carry out cluster.sh's commands; return the exit code, that of the job for submit."""
    parser = argparse.ArgumentParser(prog="cluster.sh", description="A Spark standalone cluster on loopback.")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".cluster", help="logs, work and scratch")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("start", "hold"):
        commands.add_parser(name).add_argument("--workers", type=int, default=2)
    commands.add_parser("stop")
    # Whatever follows submit, options too, is the job's.
    commands.add_parser("submit").add_argument("job", nargs=argparse.REMAINDER, help="job file and arguments")
    given = parser.parse_args(arguments)
    try:
        if given.command == "start":
            sys.stdout.write(f"{start(given.folder, given.workers)}\n")
        elif given.command == "hold":
            hold(given.folder, given.workers)
        elif given.command == "stop":
            stop(given.folder)
        else:
            command = submit_command(address_of(given.folder), given.job, {})
            return subprocess.run(command, env=spark_environment(), check=False).returncode
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
