#!/usr/bin/env bash
# A factorlake job from cron: one at a time, with a time limit, a log of each run, and the job's own exit code.
#
#   0 3 * * *  /opt/factorlake/deploy/cron/run.sh run --config /etc/factorlake/daily.yaml
#
# Ends with the job's exit code; with 5 when another run holds the lock, with 4 (try again) after the time limit.
# cron gives almost no environment, so what the job sees is stated here in full:
#   FACTORLAKE_HOME     the checkout (default: the one this file stands in)
#   FACTORLAKE_LOGS     folder of the logs and the lock (default: FACTORLAKE_HOME/logs)
#   FACTORLAKE_KEEP     how many logs are kept (default: 30)
#   FACTORLAKE_TIMEOUT  time limit as timeout(1) reads it (default: 6h)
#   FACTORLAKE_ENV      file of NAME=value lines the job sees as well (secrets, JAVA_HOME, settings)
set -uo pipefail

home="${FACTORLAKE_HOME:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}"
logs="${FACTORLAKE_LOGS:-$home/logs}"
keep="${FACTORLAKE_KEEP:-30}"
limit="${FACTORLAKE_TIMEOUT:-6h}"

cd "$home" && mkdir -p "$logs" || exit 2
exec 9>"$logs/lock"
if ! flock -n 9; then
  echo "another run holds $logs/lock" >&2
  exit 5
fi

environment=(
  "HOME=${HOME:-/}" "PATH=$home/.venv/bin:/usr/local/bin:/usr/bin:/bin" "LANG=C.UTF-8" "TZ=UTC"
  "PYSPARK_PYTHON=$home/.venv/bin/python" "OPENBLAS_NUM_THREADS=1" "OMP_NUM_THREADS=1"
)
[ -n "${JAVA_HOME:-}" ] && environment+=("JAVA_HOME=$JAVA_HOME")
if [ -n "${FACTORLAKE_ENV:-}" ]; then
  while IFS= read -r line; do environment+=("$line"); done < <(grep -E '^[A-Za-z_][A-Za-z0-9_]*=' "$FACTORLAKE_ENV")
fi

log="$logs/$(date -u +%Y%m%dT%H%M%SZ)-$$.log"
# env ends where the job begins, so that no process keeps the secrets in its arguments.
env -i "${environment[@]}" timeout --kill-after=60 "$limit" factorlake "$@" >"$log" 2>&1
code=$?
case "$code" in
  124 | 137) echo "stopped after $limit" >>"$log"; code=4 ;;
esac

# Names begin with the time, so the last ones are the newest.
find "$logs" -maxdepth 1 -name '*.log' | sort | head -n "-$keep" | xargs -r -d '\n' rm -f --
tail -n 1 "$log"
exit "$code"
