"""Search settings of a model on held-out pairs of the accepted events.

Reads interactions.
Writes trials and a conf file of the best settings.
The same as `factorlake tune`.
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
    sys.exit(run_job("tune", sys.argv[1:]))
