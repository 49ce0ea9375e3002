# shellcheck shell=bash
# Shared by the scripts in tests/: servers, volumes, cases and cleaning up. To be sourced.
#
# ESKER, S3D   the binaries; default: those in target/debug
# NO_SKIP=1    a case that cannot run here is a failure
# CASES        a regular expression: only cases whose names it matches
# KEEP=1       leaves the work directory, with all logs, in place

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ESKER=${ESKER:-$ROOT/target/debug/esker}
S3D=${S3D:-$ROOT/target/debug/s3d}
MOTO=${MOTO:-${XDG_CACHE_HOME:-$HOME/.cache}/esker/moto-5.2.5/bin/moto_server}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export ESKER_PASSWORD='a password for tests only'

WORK=$(mktemp -d "${TMPDIR:-/tmp}/esker-test.XXXXXX")
# The journal must lie on tmpfs.
SHM=$(mktemp -d /dev/shm/esker-test.XXXXXX)

PASSED=0 FAILED=0 SKIPPED=0
CLEANUP=()    # commands, run last first
STORE_PID=''  # the s3d or moto that runs
SERVE_PID=''  # the esker that runs
URL=''        # the pool
FLAGS=()      # what every esker command that takes URL needs

say() { printf '%s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; return 1; }
defer() { CLEANUP+=("$*"); }

finish() {
  local status=$? i
  trap - EXIT
  set +e
  for ((i = ${#CLEANUP[@]} - 1; i >= 0; i--)); do eval "${CLEANUP[i]}"; done
  stop_pid "$SERVE_PID" KILL
  stop_pid "$STORE_PID" TERM
  if [ "$FAILED" != 0 ] || [ $status != 0 ]; then
    status=1
    local log
    for log in "$WORK"/*.err; do
      if [ -s "$log" ]; then say "--- the end of ${log##*/}"; tail -n 20 "$log" | cut -c 1-300; fi
    done
  fi
  if [ -n "${KEEP-}" ]; then say "kept: $WORK $SHM"; else rm -rf "$WORK" "$SHM"; fi
  say "$(basename "$0"): $PASSED passed, $FAILED failed, $SKIPPED skipped"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stop_pid PID SIGNAL: ends a child of ours and waits for it; its status does not matter.
stop_pid() {
  [ -n "$1" ] || return 0
  kill -s "$2" "$1" 2>/dev/null || return 0
  wait "$1" 2>/dev/null || true
}

# run_case NAME COMMAND...: runs one case in a subshell; its output is shown only if it fails. A case ends with 77
# (see `skip`) where it cannot run here.
run_case() {
  local name=$1 log=$WORK/case.log status=0 begin=$SECONDS
  shift
  [[ $name =~ ${CASES-} ]] || return 0
  # Not in a condition: there, bash would ignore `set -e` within the case.
  set +e
  (set -e; trap - EXIT; "$@") >"$log" 2>&1
  status=$?
  set -e
  case $status in
    0) PASSED=$((PASSED + 1)); say "ok      $name ($((SECONDS - begin)) s)" ;;
    77) skipped "$name: $(tail -n 1 "$log")" ;;
    *) FAILED=$((FAILED + 1)); say "FAILED  $name (status $status)"; sed 's/^/        /' "$log" | tail -n 40 ;;
  esac
}

# skip WHY: ends the case.
skip() { say "$*"; exit 77; }

skipped() {
  if [ -n "${NO_SKIP-}" ]; then FAILED=$((FAILED + 1)); say "FAILED  $* (NO_SKIP is set)"
  else SKIPPED=$((SKIPPED + 1)); say "skipped $*"; fi
}

has() { command -v "$1" >/dev/null; }

# need COMMAND...: skips the case unless all are there.
need() {
  local c
  for c in "$@"; do has "$c" || skip "no $c here (scripts/setup installs it)"; done
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt "$end" ] || { fail "waited in vain for $what"; return 1; }
    sleep 0.05
  done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# --- stores: each sets URL, FLAGS and the environment

start_s3d() {
  [ -x "$S3D" ] || { say "no s3d at $S3D: cargo build -p esker-testkit" >&2; exit 1; }
  mkdir -p "$WORK/s3"
  : >"$WORK/s3d.out"
  "$S3D" --dir "$WORK/s3" "$@" >"$WORK/s3d.out" 2>"$WORK/s3d.err" &
  STORE_PID=$!
  wait_for 20 "s3d" s3d_is_ready
  eval "$(grep '^export ' "$WORK/s3d.out")"
  URL=s3://esker/pool-1 FLAGS=(--allow-http)
}

s3d_is_ready() {
  kill -0 "$STORE_PID" 2>/dev/null || { fail "s3d ended: $(cat "$WORK/s3d.err")"; exit 1; }
  grep -q '^export AWS_ALLOW_HTTP=' "$WORK/s3d.out"
}

# False if there is no moto here.
start_moto() {
  [ -x "$MOTO" ] || return 1
  local port
  port=$(free_port)
  "$MOTO" -H 127.0.0.1 -p "$port" >"$WORK/moto.out" 2>"$WORK/moto.err" &
  STORE_PID=$!
  export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
  # Somebody else may have come to its port first.
  wait_for 60 "moto" curl -fsS -o /dev/null -X PUT "$AWS_ENDPOINT_URL/esker" 2>/dev/null || { stop_pid "$STORE_PID" TERM; return 1; }
  URL=s3://esker/pool-1 FLAGS=(--allow-http)
}

start_file() {
  mkdir -p "$WORK/pool"
  URL=file://$WORK/pool FLAGS=()
}

stop_store() {
  stop_pid "$STORE_PID" TERM
  STORE_PID=''
  rm -rf "$WORK/s3" "$WORK/pool" "$WORK/state" "$SHM/journal"
}

# --- compaction amid faults

# eager: from here on servers compact all the time (tests/eager).
eager() {
  mkdir -p "$WORK/eager"
  export EAGER_ESKER=${EAGER_ESKER:-$ESKER} EAGER_COUNTS=$WORK/eager
  ESKER=$ROOT/tests/eager
}

lazy() { ESKER=${EAGER_ESKER:-$ESKER}; }

# have_compacted LEAST: so say at least some of the servers that were to, LEAST of which are expected to have said anything. A
# few may have been killed before they got to it.
have_compacted() {
  local servers emptied written deleted
  read -r servers emptied written deleted < <(find "$WORK/eager" -type f ! -name '*.new' -exec cat {} + |
    awk '{ e += $1; w += $2; d += $3 } END { printf "%d %d %.0f %d\n", NR, e, w, d }')
  say "$servers servers were asked to compact: $emptied segments emptied, $((written >> 10)) KiB written, $deleted objects deleted"
  [ "$servers" -ge "$1" ] || { fail "that is less than $1"; return 1; }
  [ "$servers" -lt 10 ] || { [ "$emptied" -gt 0 ] && [ "$written" -gt 0 ] && [ "$deleted" -gt 0 ]; } || fail "no compaction to speak of"
}

# --- esker

need_esker() { [ -x "$ESKER" ] || { say "no esker at $ESKER: cargo build" >&2; exit 1; }; }

format_pool() { "$ESKER" format "$URL" "${FLAGS[@]}" >"$WORK/format.out" 2>"$WORK/format.err"; }

# new_volume NAME SIZE
new_volume() {
  "$ESKER" volume create "$URL" "$1" --size "$2" "${FLAGS[@]}" >"$WORK/create.out" 2>"$WORK/create.err"
}

# serve [VOLUME...]: starts the server; ready means that every export takes connections.
serve() {
  mkdir -p "$SHM/journal"
  # Whatever a killed server left of its socket is in the way of none but this test.
  rm -f "$SHM/nbd.sock"
  # Here, not by the redirection below, which happens in another process: an old `ready` must not be read.
  : >"$WORK/serve.out"
  "$ESKER" serve "$URL" "$@" "${SERVE_FLAGS[@]}" "${FLAGS[@]}" >"$WORK/serve.out" 2>>"$WORK/serve.err" &
  SERVE_PID=$!
  wait_for 60 "the server" serve_is_ready "$@"
}
SERVE_FLAGS=(--unix "$SHM/nbd.sock" --control "$SHM/control.sock" --journal-dir "$SHM/journal" --state-dir "$WORK/state")

serve_is_ready() {
  kill -0 "$SERVE_PID" 2>/dev/null || { fail "the server ended early"; exit 1; }
  local volume
  for volume in "$@"; do grep -q "^ready: nbd.*/$volume?" "$WORK/serve.out" || return 1; done
  grep -q '^ready: ' "$WORK/serve.out"
}

# uri VOLUME: where it is served, as the server printed it.
uri() { sed -n "s|^ready: \(nbd[^ ]*/$1?[^ ]*\).*|\1|p" "$WORK/serve.out" | head -n 1; }

# A clean end: it must be one.
stop_serve() {
  local pid=$SERVE_PID
  SERVE_PID=''
  kill -s TERM "$pid"
  wait "$pid" || fail "the server ended with status $? on SIGTERM"
}

kill_serve() {
  stop_pid "$SERVE_PID" KILL
  SERVE_PID=''
}
