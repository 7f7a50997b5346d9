"""Move records in quarantine that the rules of now accept to the accepted events, each once.

Reads quarantine, raw_events, validation_results.
Writes interactions, quarantine, users, items, validation_results.
The same as `factorlake replay`.
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
    sys.exit(run_job("replay", sys.argv[1:]))
