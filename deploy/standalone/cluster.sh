#!/usr/bin/env bash
# A Spark master and two workers as processes on loopback.
#
#   cluster.sh start                                      prints the master's address
#   cluster.sh submit jobs/train_als.py --config ...      spark-submit on it; exit code of the job
#   cluster.sh stop
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${PYTHON:-$here/../../.venv/bin/python}" "$here/cluster.py" "$@"
