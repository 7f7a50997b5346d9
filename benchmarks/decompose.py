"""Decompositions beside LAPACK and scikit-learn, and on planted answers.

    python -m benchmarks.decompose --method svd      a drawn picture, and a dense matrix inside Spark
    python -m benchmarks.decompose --method rpca     planted errors, clips, and 76,800 × 794 numbers
    python -m benchmarks.decompose --method nmf      topics of two collections of texts

The last line is one JSON object. Clips and texts are read from the folder FACTORLAKE_DATA names; without it they are
left out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks import decompose_nmf, decompose_rpca, decompose_svd
from benchmarks.result import finish

METHODS = {"svd": decompose_svd, "rpca": decompose_rpca, "nmf": decompose_nmf}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decompose", description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, required=True)
    chosen = METHODS[parser.parse_known_args()[0].method]
    parser.add_argument("--folder", type=Path, default=os.environ.get("FACTORLAKE_DATA"), help="of clips and texts")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    chosen.add_arguments(parser)
    arguments = parser.parse_args()
    figures, ratios = chosen.run(arguments)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("keep", "folder")}
    finish(f"decompose-{arguments.method}", settings, figures, ratios, arguments.keep)


if __name__ == "__main__":
    main()
