"""An archive of the classes a job loads, so that the JVM of a local session starts sooner.

``python -m factorlake.spark.class_archive JOB ARGUMENTS...`` is a step of ``make setup``: it runs a job once under
spark-submit and keeps the classes that its JVM loaded beside the environment's Spark (class data sharing, JEP 350).
Every local session of that environment then maps them instead of reading, parsing and verifying them one by one. Java
checks the archive against itself and the jars when it starts, and does without one that does not fit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from factorlake.errors import ConfigError, FactorlakeError
from factorlake.spark.delta_jars import spark_jars_folder
from factorlake.spark.java import java_command

log = logging.getLogger(__name__)

NAME = "factorlake-classes.jsa"
# An archive that does not fit is no fault, and what Java logs would come before a job's own lines.
QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off"
# For JVMs that are done before the optimizing compiler has paid for itself. Alone, the first option makes the room for
# compiled code smaller than Spark's needs.
QUICK_COMPILER = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"


def archive_path() -> Path:
    """Where the archive of the installed Spark lies, if one was made."""
    return spark_jars_folder().parent / NAME


def archive_options() -> str:
    """Return the options with which Java takes the archive; empty when there is none."""
    try:
        path = archive_path()
    except ConfigError:
        # Spark is the platform's own.
        return ""
    return f'-XX:SharedArchiveFile="{path}" {QUIET}' if path.exists() else ""


def is_current(archive: Path) -> bool:
    """Whether ``archive`` was made by this machine's Java from the jars that lie beside it now."""
    made_for = archive.with_suffix(".for")
    return archive.exists() and made_for.exists() and made_for.read_text() == key()


def make(job: Sequence[str]) -> Path:
    """Run ``job`` (a script and its arguments) under spark-submit, keep the classes that it loaded, and return the
    archive. An archive is replaced in one step, and stays when the job fails.

    Raises
    ------
    FactorlakeError : the job failed, or Java wrote no archive.
    """
    archive = archive_path()
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="classes-") as scratch:
        made = Path(scratch) / NAME
        script, *arguments = job
        options = f'-XX:ArchiveClassesAtExit="{made}" {QUIET} {QUICK_COMPILER}'
        submit = shutil.which("spark-submit", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
        answer = subprocess.run(
            [submit or "spark-submit", "--driver-java-options", options, script, *arguments],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0 or not made.exists():
            said = "\n".join((answer.stderr + answer.stdout).splitlines()[-5:])
            raise FactorlakeError(f"{script} ended with {answer.returncode} and left no archive of classes: {said}")
        made.replace(archive)
    archive.with_suffix(".for").write_text(key())
    return archive


def key() -> str:
    """Return a hash of this machine's Java and of Spark's jars: what an archive is made for."""
    java = java_command()
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr if java else ""
    # Around the two lines of version and build Java tells what the environment's options make of it.
    build = [line for line in told.splitlines() if not line.startswith(("NOTE:", "Picked up"))][:2]
    jars = [f"{jar.name} {jar.stat().st_size}" for jar in sorted(spark_jars_folder().iterdir())]
    return hashlib.sha256("\n".join([*build, *jars]).encode()).hexdigest()


def main(job: Sequence[str]) -> int:
    """Make the archive unless there is a current one. Without it everything works, a few seconds later: so a failure
    is told, and is no failure of the set-up."""
    archive = archive_path()
    if is_current(archive):
        return 0
    sys.stdout.write("noting the classes that Spark loads, so that it starts faster from now on\n")
    sys.stdout.flush()
    try:
        make(job)
    except (FactorlakeError, OSError) as error:
        log.warning("Spark starts as slowly as ever: %s", error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
