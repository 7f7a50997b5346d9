"""Judge a candidate on events it has not seen, beside baselines.

Reads interactions, the candidate's factors, the published ones, tables that are handed in.
Writes evaluation, calibrations, models.
The same as `factorlake evaluate`.
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
    sys.exit(run_job("evaluate", sys.argv[1:]))
