"""What a machine needs before a job can run, each fault with the one line that mends it. Starts no Spark."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from factorlake.config.settings import Settings
from factorlake.errors import DONE, ConfigError
from factorlake.paths import has_scheme
from factorlake.spark import delta_jars, java

MIB = 1 << 20
LEAST_DISK = 1 << 30
DEFAULT_DRIVER_MEMORY = "4g"
_UNITS = {"k": 1 << 10, "m": MIB, "g": 1 << 30, "t": 1 << 40}
_MEMORY = re.compile(r"(\d+)([kmgt]?)b?\Z")
_ASK_WORKER = "import sys, numba, pyarrow; sys.stdout.write('%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``fix`` is the line that mends it; empty when ``ok``."""

    check: str
    ok: bool
    message: str
    fix: str = ""


def examine(settings: Settings) -> list[Check]:
    """Return every check, in the order in which faults are best mended."""
    return [
        _java(),
        _jars(),
        _worker_python(),
        _root(settings.root),
        _scratch(),
        _memory(settings.spark.driver_memory or DEFAULT_DRIVER_MEMORY),
    ]


def show(settings: Settings, as_json: bool = False) -> int:
    """Write the checks to stdout, last the JSON line; return 0, or 2 when something is to be mended."""
    checks = examine(settings)
    code = DONE if all(check.ok for check in checks) else ConfigError.exit_code
    if not as_json:
        for check in checks:
            sys.stdout.write(f"{'ok   ' if check.ok else 'FAULT'} {check.check}: {check.message}\n")
            if check.fix:
                sys.stdout.write(f"      mend it by: {check.fix}\n")
    line = {"job": "doctor", "exit_code": code, "checks": [asdict(check) for check in checks]}
    sys.stdout.write(f"{json.dumps(line)}\n")
    return code


def _java() -> Check:
    fault = java.java_fault()
    if fault:
        return Check("java", False, fault, java.install_command())
    return Check("java", True, f"{java.java_command()} fits")


def _jars() -> Check:
    try:
        wanted = delta_jars.wanted_jars()
        folder = delta_jars.spark_jars_folder()
    except ConfigError as error:
        return Check("delta jars", False, str(error), f"{sys.executable} -m pip install 'factorlake[spark]'")
    faulty = delta_jars.faulty_jars(folder, wanted)
    if faulty:
        message = f"{' and '.join(faulty)} absent from {folder}, or not as recorded"
        return Check("delta jars", False, message, f"{sys.executable} -m factorlake.spark.delta_jars")
    return Check("delta jars", True, f"{' and '.join(wanted)} in place")


def _worker_python() -> Check:
    """Workers must run the driver's minor version of Python, with the packages that our kernels need."""
    name = "workers' python"
    chosen = os.environ.get("PYSPARK_PYTHON")
    if not chosen:
        return Check(name, True, f"PYSPARK_PYTHON is not set: the session sets {sys.executable}")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    fix = f"export PYSPARK_PYTHON={sys.executable}"
    if os.path.realpath(shutil.which(chosen) or "") == os.path.realpath(sys.executable):
        return Check(name, True, f"PYSPARK_PYTHON={chosen}, the driver's own")
    try:
        answer = subprocess.run([chosen, "-c", _ASK_WORKER], capture_output=True, text=True, check=False)
    except OSError as error:
        return Check(name, False, f"PYSPARK_PYTHON={chosen} cannot be started: {error.strerror}", fix)
    if answer.returncode != 0:
        return Check(name, False, f"PYSPARK_PYTHON={chosen} cannot import numba and pyarrow", fix)
    if answer.stdout != own:
        return Check(name, False, f"PYSPARK_PYTHON={chosen} is Python {answer.stdout}, the driver's is {own}", fix)
    return Check(name, True, f"PYSPARK_PYTHON={chosen} is Python {own}")


def _root(root: str) -> Check:
    if has_scheme(root):
        return Check("root", True, f"{root} is no folder of this machine: its store decides who may write")
    # Its own folder may not be there yet; what counts is whether it could be made.
    place = Path(root).absolute()
    while not os.path.exists(place):
        place = place.parent
    return _writable("root", place, f"{root} can be written", "--set root=FOLDER, a folder you may write to")


def _scratch() -> Check:
    given = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    place = Path(given or tempfile.gettempdir())
    fix = "export SPARK_LOCAL_DIRS=FOLDER, on a disk with room"
    return _writable("scratch", place, f"{place} takes Spark's shuffles", fix)


def _writable(name: str, place: Path, fine: str, fix: str) -> Check:
    """Check by writing, since access bits say little on network and read-only file systems."""
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(name, False, f"{place} cannot be written: {error.strerror}", fix)
    if free < LEAST_DISK:
        return Check(name, False, f"{place} has {free // MIB} MiB free, {LEAST_DISK // MIB} are needed", fix)
    return Check(name, True, f"{fine}, {free >> 30} GiB free")


def _memory(driver_memory: str) -> Check:
    """The driver's JVM must fit what is free now; the Python workers come on top."""
    name = "memory"
    found = _MEMORY.match(driver_memory.strip().lower())
    if found is None:
        message = f"spark.driver_memory is {driver_memory!r}, which is no size"
        return Check(name, False, message, "--set spark.driver_memory=4g")
    wanted = int(found.group(1)) * _UNITS[found.group(2) or "m"]
    free = _free_memory()
    if free is None:
        return Check(name, True, f"the driver takes {driver_memory}; what is free is not told here")
    if free < wanted:
        half = max(1, free // MIB // 1024 // 2)
        message = f"{free // MIB} MiB are free, the driver takes {wanted // MIB}"
        return Check(name, False, message, f"--set spark.driver_memory={half}g")
    return Check(name, True, f"{free // MIB} MiB are free, the driver takes {wanted // MIB}")


def _free_memory() -> int | None:
    """Return the bytes that a new process can have, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
