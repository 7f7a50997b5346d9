"""Accept or quarantine each new record; refuse batches out of their limits.

Reads raw_events, validation_results.
Writes interactions, quarantine, users, items, validation_results.
The same as `factorlake validate`.
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
    sys.exit(run_job("validate", sys.argv[1:]))
