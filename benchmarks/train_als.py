"""Training beside its peers, at equal quality. The peers decide which comparison runs:

python -m benchmarks.train_als --peers pyspark_ml --rank 64                       inside Spark
python -m benchmarks.train_als --peers irspack,implicit --data planted --rank 64  plan local, no Spark
python -m benchmarks.train_als --objective explicit --peers pyspark_ml --rank 50  star ratings, inside Spark
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Run the comparison that the arguments ask for."""
    if any("explicit" in argument for argument in arguments):
        from benchmarks import explicit_peers as peers
    elif any(peer in argument for argument in arguments for peer in ("irspack", "implicit")):
        from benchmarks import local_peers as peers  # type: ignore[no-redef]
    else:
        from benchmarks import spark_peers as peers  # type: ignore[no-redef]
    peers.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
