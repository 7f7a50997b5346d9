"""Take a matrix apart: truncated SVD, robust PCA or non-negative factors.

Reads a table, a picture, a clip, or interactions.
Writes decompositions/VERSION, models.
The same as `factorlake decompose`.
"""

import sys
from pathlib import Path

try:
    from factorlake.cli import run_job
except ModuleNotFoundError as missing:
    if missing.name != "factorlake":
        raise
    # A bare checkout: the package lies beside this folder, whatever the working directory.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))
    from factorlake.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("decompose", sys.argv[1:]))
