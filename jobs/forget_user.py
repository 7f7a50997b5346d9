"""Remove users from every table of the lake, of all recommenders.

Reads every table that names users.
Writes them, ingest_ledger, models, publications, erasures.
The same as `factorlake forget`.
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
    sys.exit(run_job("forget", sys.argv[1:]))
