#!/usr/bin/env bash
# One run on one host, which outlives the connection that started it.
#
#   bash job.sh start NAME [KEY=VALUE ...] -- ARGUMENTS   start `python -m launch.worker ARGUMENTS`; no-op while it runs
#   bash job.sh wait NAME      until it ends; exits as it did
#   bash job.sh status NAME    one line
#   bash job.sh stop NAME      SIGTERM, which saves; waits for the end
#   bash job.sh logs NAME      follows its log
set -euo pipefail
cd "$(dirname "$0")/../.."
verb=${1:?start, wait, status, stop or logs} name=${2:?name of the run}
shift 2
state="$HOME/mmjax-runs/$name"
mkdir -p "$state"

running() { [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

ended() {
  while running; do sleep 2; done
  # The process is gone a moment before its exit code is written; without one it was killed with its shell.
  for _ in 1 2 3 4 5; do [ -f "$state/exit" ] || sleep 1; done
  cat "$state/exit" 2>/dev/null || echo 1
}

case "$verb" in
start)
  if running; then
    echo "$name runs already"
    exit
  fi
  environment=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    environment+=("$1")
    shift
  done
  shift
  rm -f "$state/exit" "$state/pid"
  # shellcheck disable=SC2016  # the inner shell expands these
  nohup setsid bash -c 'state=$1; shift; "$@" & echo $! >"$state/pid"; code=0; wait $! || code=$?; echo $code >"$state/exit"' \
    job "$state" env "${environment[@]}" .venv/bin/python -m launch.worker "$@" >>"$state/log" 2>&1 </dev/null &
  for _ in 1 2 3 4 5 6 7 8 9 10; do [ -f "$state/pid" ] || sleep 0.5; done
  echo "$name started; its log is $state/log"
  ;;
wait)
  code=$(ended)
  tail -n 20 "$state/log"
  exit "$code"
  ;;
status)
  if running; then echo running; elif [ -f "$state/exit" ]; then echo "ended $(cat "$state/exit")"; else echo absent; fi
  ;;
stop)
  if running; then kill -TERM "$(cat "$state/pid")"; fi
  echo "$name ended with exit code $(ended)"
  ;;
logs)
  exec tail -n 200 -F "$state/log"
  ;;
*)
  echo "error: job.sh has no verb $verb: start, wait, status, stop or logs" >&2
  exit 2
  ;;
esac
