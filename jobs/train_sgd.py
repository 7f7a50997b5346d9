"""Train a candidate model on the accepted ratings by stochastic gradients.

Reads interactions, users, items.
Writes the candidate's factors, models, training_trace.
The same as `factorlake sgd`.
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
    sys.exit(run_job("sgd", sys.argv[1:]))
