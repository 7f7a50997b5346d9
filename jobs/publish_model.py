"""Make a candidate live: factors and lists, each in one commit.

Reads the candidate's factors and lists, models.
Writes user_factors, item_factors, recommendations, publications, models.
The same as `factorlake publish`.
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
    sys.exit(run_job("publish", sys.argv[1:]))
