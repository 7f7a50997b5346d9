"""Take new files of the log into raw_events, each record once.

Reads the files or the Delta table of `input`, ingest_ledger.
Writes raw_events, ingest_ledger.
The same as `factorlake ingest`.
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
    sys.exit(run_job("ingest", sys.argv[1:]))
