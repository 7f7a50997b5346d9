"""Bring back what an earlier publication made live, each table in one commit.

Reads publications and the versions of the published tables that one of them names.
Writes user_factors, item_factors, recommendations, publications, models.
The same as `factorlake rollback`.
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
    sys.exit(run_job("rollback", sys.argv[1:]))
