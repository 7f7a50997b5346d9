"""The Java that Spark 4 needs: version 17 or 21, with the module jdk.incubator.vector.

Standard library only: ``make setup`` runs ``python -m factorlake.spark.java`` before anything is installed.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from factorlake.errors import ConfigError

log = logging.getLogger(__name__)

VERSIONS = (17, 21)
# Spark 4 always starts Java with --add-modules=jdk.incubator.vector; runtimes that were cut down lack it.
MODULE = "jdk.incubator.vector"
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def java_command() -> str | None:
    """Return the java that Spark would start: that of JAVA_HOME, else the first on PATH, if there is one."""
    home = os.environ.get("JAVA_HOME")
    if home:
        return shutil.which(str(Path(home) / "bin" / "java"))
    return shutil.which("java")


def java_fault() -> str | None:
    """Return what is wrong with this machine's Java in one sentence, or None when Spark can start with it."""
    java = java_command()
    wanted = " or ".join(map(str, VERSIONS))
    if java is None:
        home = os.environ.get("JAVA_HOME")
        return f"JAVA_HOME is {home}, which holds no bin/java" if home else f"Java {wanted} is not installed"
    found = _VERSION.search(_answer([java, "-version"]).stderr)
    if found is None:
        return f"{java} does not tell its version"
    if int(found.group(1)) not in VERSIONS:
        return f"{java} is Java {found.group(1)}, Spark needs {wanted}"
    if _answer([java, "--add-modules", MODULE, "-version"]).returncode != 0:
        return f"{java} lacks the module {MODULE}, which Spark needs: it is a cut-down runtime"
    return None


def _answer(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def install_command() -> str:
    """Return the one command that gives this system a fitting Java."""
    if os.environ.get("JAVA_HOME") and shutil.which("java"):
        return "unset JAVA_HOME"
    if platform.system() == "Darwin":
        return (
            "brew install openjdk@17 && "
            'export JAVA_HOME="$(brew --prefix openjdk@17)/libexec/openjdk.jdk/Contents/Home"'
        )
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        return f"{sudo}sh -c 'apt-get update && apt-get install -y {_debian_package()}'"
    if shutil.which("dnf"):
        return f"{sudo}dnf install -y java-21-openjdk-headless"
    return "install a full OpenJDK 17 or 21 (for example Eclipse Temurin) and set JAVA_HOME to its folder"


def _debian_package() -> str:
    """Debian carries 17 up to release 12 and 21 from release 13; supported Ubuntus carry both."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    release = system.get("VERSION_ID", "")
    newer = system.get("ID") == "debian" and release.isdigit() and int(release) >= 13
    return f"openjdk-{21 if newer else 17}-jre-headless"


def require_java(install: bool = False) -> None:
    """Raise unless Spark can start with this machine's Java.

    Parameters
    ----------
    install : run the command first that the error would name, where that is apt-get.

    Raises
    ------
    ConfigError : names the fault and the one command that mends it on this system.
    """
    fault = java_fault()
    if fault is not None and install and shutil.which("apt-get"):
        log.warning("%s; running: %s", fault, install_command())
        subprocess.run(["sh", "-c", install_command()], check=False)
        fault = java_fault()
    if fault is not None:
        raise ConfigError(f"{fault}. Run: {install_command()}")


def main(arguments: list[str]) -> int:
    """Check Java, or with ``--install`` mend it; return the exit code of the command."""
    try:
        require_java(install="--install" in arguments)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
