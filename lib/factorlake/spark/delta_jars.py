"""Delta's two jars, put once into the environment's own Spark.

``python -m factorlake.spark.delta_jars`` is a step of ``make setup``. Afterwards every spark-submit of that
environment has Delta without ``--packages`` and without a network. The wheel delta-spark brings no jar, and
packages named in code come too late under spark-submit.

Only delta-spark and delta-storage are wanted. The resolver would also bring parquet, jackson, hadoop and
others, older than the ones Spark has; beside Spark's own they make two versions of one class.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from factorlake.errors import ConfigError, FactorlakeError, TransientError

log = logging.getLogger(__name__)

DELTA_VERSION = "4.4.0"
STORAGE_JAR = "delta-storage-4.4.0.jar"
SHA256 = {
    "delta-spark_4.0_2.13-4.4.0.jar": "49e899667168b9412f83cbe894ce264107d7b896d6c5e12edca4e216845c1104",
    "delta-spark_4.1_2.13-4.4.0.jar": "75a9400986853c061f5109f012547de2545a5759e5e752e5ef633dabe16a4f10",
    STORAGE_JAR: "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
# All that delta-spark asks for besides delta-storage: Spark has its own of it, or Delta runs without it.
EXCLUDED = (
    *("org.*:*", "com.*:*", "commons-*:*", "javax.*:*"),
    *("io.airlift:*", "io.unitycatalog:*", "io.delta:delta-kernel*"),
)


def spark_jars_folder() -> Path:
    """Return the folder of the installed pyspark that spark-submit takes its jars from.

    Raises
    ------
    ConfigError : pyspark is not installed in this environment.
    """
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "pyspark is not installed in this environment: pip install 'factorlake[spark]', or make setup"
        )
    return Path(spec.origin).parent / "jars"


def wanted_jars() -> dict[str, str]:
    """Return the two jars of the installed Spark, name to SHA-256. The first is named for Spark's version.

    Raises
    ------
    ConfigError : pyspark is not installed, or no sum is recorded for its version.
    """
    try:
        minor = ".".join(version("pyspark").split(".")[:2])
    except PackageNotFoundError as error:
        raise ConfigError("pyspark is not installed in this environment: pip install 'factorlake[spark]'") from error
    delta_jar = f"delta-spark_{minor}_2.13-{DELTA_VERSION}.jar"
    if delta_jar not in SHA256:
        raise ConfigError(f"Spark {minor} has no Delta {DELTA_VERSION} jar here: install pyspark 4.0 or 4.1")
    return {name: SHA256[name] for name in (delta_jar, STORAGE_JAR)}


def faulty_jars(folder: Path, jars: Mapping[str, str]) -> list[str]:
    """Return the names of those ``jars`` (name to SHA-256) that ``folder`` lacks or has with another sum."""
    return [name for name, sha256 in jars.items() if _sha256(folder / name) != sha256]


def put_delta_jars(folder: Path | None = None) -> list[str]:
    """Fetch the Delta jars that ``folder`` lacks, check them and put them there; return their names.

    Parameters
    ----------
    folder : a Spark jars folder; none: that of the installed pyspark. A folder that has both is left as it
        is, and no network is needed.

    Raises
    ------
    TransientError : Spark's resolver could not bring them.
    FactorlakeError : what it brought differs from the recorded sum.
    """
    jars = wanted_jars()
    folder = folder or spark_jars_folder()
    faulty = faulty_jars(folder, jars)
    if not faulty:
        return []
    with tempfile.TemporaryDirectory(prefix="factorlake-ivy-") as ivy:
        _resolve(next(iter(jars)), ivy)
        for name in faulty:
            _put(Path(ivy) / "jars" / f"io.delta_{name}", folder / name, jars[name])
    log.info("delta_jars=%s folder=%s", ",".join(faulty), folder)
    return faulty


def _resolve(delta_jar: str, ivy: str) -> None:
    """Let Spark's own resolver bring the jars into ``ivy``/jars, so that its mirrors and proxies apply.

    spark-submit resolves packages before it runs a class; the class it runs here only tells Hadoop's version.
    """
    artifact = delta_jar.removesuffix(f"-{DELTA_VERSION}.jar")
    home = spark_jars_folder().parent
    command = [
        str(home / "bin" / "spark-submit"),
        *("--master", "local[1]", "--conf", f"spark.jars.ivy={ivy}"),
        *("--packages", f"io.delta:{artifact}:{DELTA_VERSION}", "--exclude-packages", ",".join(EXCLUDED)),
        *("--class", "org.apache.hadoop.util.VersionInfo", "spark-internal"),
    ]
    environment = {**os.environ, "SPARK_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise TransientError(
            "Spark's resolver could not bring the Delta jars. Behind a mirror, name it in the variable "
            "DEFAULT_ARTIFACT_REPOSITORY or in spark.jars.ivySettings of spark-defaults.conf, then run this "
            f"again.\n{tail}"
        )


def _put(source: Path, target: Path, sha256: str) -> None:
    found = _sha256(source)
    if found is None:
        raise FactorlakeError(f"Spark's resolver did not bring {target.name}: put it into {target.parent} by hand")
    if found != sha256:
        raise FactorlakeError(f"{target.name} has SHA-256 {found}, expected {sha256}: it was not put in place")
    # Copied under another name first, so that a jar of that name is always whole.
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Put the jars in place; return the exit code of the command."""
    try:
        put_delta_jars()
    except FactorlakeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
