"""Take names and attributes of users and items.

Reads the files of `attributes`, or interactions.
Writes user_attributes, item_attributes.
The same as `factorlake attributes`.
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
    sys.exit(run_job("attributes", sys.argv[1:]))
