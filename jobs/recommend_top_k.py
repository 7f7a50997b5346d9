"""Write a candidate's top-k lists.

Reads the candidate's factors, interactions, item_attributes.
Writes the candidate's lists, models.
The same as `factorlake recommend`.
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
    sys.exit(run_job("recommend", sys.argv[1:]))
