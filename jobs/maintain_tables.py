"""Keep a lake small: compact and vacuum its tables, remove candidates that nobody can go back to.

Reads models and publications.
Writes every table's files anew where they are small, models; removes files that no kept version needs.
The same as `factorlake maintain`.
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
    sys.exit(run_job("maintain", sys.argv[1:]))
