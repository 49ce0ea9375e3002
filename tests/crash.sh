#!/usr/bin/env bash
# Pulls the plug on the server, again and again, with a client that knows what it was promised (tests/crash.py), on a store
# that is slow, refuses and forgets to answer; and lets two servers want one volume.
#
#   tests/crash.sh           12 crashes of each kind
#   tests/crash.sh 100       more of them
#
# SEED   where the random moments begin; it is printed
# Environment: see tests/lib.sh.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

ROUNDS=${1:-12}
SEED=${SEED:-$RANDOM}

# between LOW HIGH: sleeps so many milliseconds, by chance.
between() {
  local ms=$(($1 + RANDOM % ($2 - $1 + 1)))
  sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
}

client() {
  local what=$1 volume=$2
  shift 2
  python3 "$ROOT/tests/crash.py" "$what" "$SHM/nbd.sock" "$volume" "$WORK/$volume.json" "$@"
}

# In every other round the servers compact all the time.
turns() { if (($1 % 2)) && has jq; then eager; else lazy; fi; }

compacted() {
  has jq || skip "no jq here (scripts/setup installs it)"
  have_compacted $((ROUNDS / 4))
}

# Puts load on the volume and kills the server meanwhile.
crash_under_load() {
  local volume=$1 pid
  shift
  rm -f "$WORK/$volume.json.begun"
  client load "$volume" "$@" &
  pid=$!
  wait_for 60 "the load to begin" test -e "$WORK/$volume.json.begun"
  between 100 2500
  kill_serve
  wait "$pid"
}

# A server that is killed somewhere on its way to being ready.
crash_in_recovery() {
  "$ESKER" serve "$URL" "$1" "${SERVE_FLAGS[@]}" "${FLAGS[@]}" >"$WORK/early.out" 2>>"$WORK/serve.err" &
  local pid=$!
  between 5 300
  stop_pid "$pid" KILL
  rm -f "$SHM/nbd.sock"
}

# Only the daemon dies: no acknowledged write is lost, flushed or not.
daemon_dies() {
  trap 'stop_pid "$SERVE_PID" KILL' EXIT
  # bash begins anew in a subshell.
  RANDOM=$SEED
  local round depth
  for ((round = 1; round <= ROUNDS; round++)); do
    depth=$((1 + RANDOM % 32))
    say "round $round, depth $depth"
    turns "$round"
    serve daemon
    crash_under_load daemon --depth "$depth" --flush-every $((10 + RANDOM % 200)) --seed $RANDOM
    for ((; RANDOM % 3 == 0; )); do say "killed on its way"; crash_in_recovery daemon; done
    serve daemon
    client check daemon --promise daemon
    if ((round % 4)); then kill_serve; else stop_serve; fi
  done
}

# The journal goes too, as when the host crashes: a prefix of the writes is left, all that was flushed in it.
journal_lost() {
  trap 'stop_pid "$SERVE_PID" KILL' EXIT
  RANDOM=$SEED
  local round
  # The host still has the same boot id, so the volume looks as if it were in use.
  SERVE_FLAGS+=(--takeover --lose-journal)
  for ((round = 1; round <= ROUNDS; round++)); do
    say "round $round"
    turns "$round"
    serve lost
    crash_under_load lost --flush-every $((5 + RANDOM % 100)) --seed $RANDOM
    rm -rf "$SHM/journal"
    serve lost
    client check lost --promise journal
    kill_serve
    rm -rf "$SHM/journal"
  done
}

# serve_second FLAG...: a second server for the volume `fence`.
serve_second() {
  : >"$WORK/second.out"
  "${AS[@]}" "$ESKER" serve "$URL" fence --unix "$SHM/second.sock" --control "$SHM/second-control.sock" "${FLAGS[@]}" \
    "$@" >"$WORK/second.out" 2>"$WORK/second.err" &
  SECOND_PID=$!
}
AS=()
SECOND_PID=''

# As another host does: with another machine id, and a journal and state of its own.
serve_elsewhere() {
  local there=$SHM/elsewhere
  mkdir -p "$there/journal" "$there/state"
  if [ -e /etc/machine-id ]; then
    unshare --mount true 2>/dev/null || skip "another machine id needs root here"
    echo 0123456789abcdef0123456789abcdef >"$there/machine-id"
    # shellcheck disable=SC2016 # expanded by the inner shell
    AS=(unshare --mount sh -c 'mount --bind "$0" /etc/machine-id && exec "$@"' "$there/machine-id")
  fi
  serve_second --journal-dir "$there/journal" --state-dir "$there/state" "$@"
}

second_is_ready() {
  kill -0 "$SECOND_PID" 2>/dev/null || { fail "the second server ended: $(cat "$WORK/second.err")"; exit 1; }
  grep -q '^ready: ' "$WORK/second.out"
}

# The second server must give up, and say why and what to do.
is_refused() {
  local status=0
  wait "$SECOND_PID" || status=$?
  SECOND_PID=''
  cat "$WORK/second.err"
  [ $status = 5 ] || fail "the second server ended with status $status, not 5 (volume in use)"
  grep -q -- --takeover "$WORK/second.err" || fail "the message does not say what to do"
}

# A volume in use is refused, in words; the one who has it goes on.
in_use() {
  need qemu-io
  trap 'stop_pid "$SERVE_PID" KILL; stop_pid "$SECOND_PID" KILL' EXIT
  serve fence
  "$1"
  is_refused
  qemu-io -f raw "$(uri fence)" -c 'write -f -P 7 0 64k' -c 'read -P 7 0 64k' | tee "$WORK/first.log"
  ! grep -qi failed "$WORK/first.log" || fail "the one who has it cannot work"
  stop_serve
}

serve_here() { serve_second --journal-dir "$SHM/journal" --state-dir "$WORK/state"; }

# A server that sleeps through a takeover never says yes again.
sleeper() {
  need qemu-io
  trap 'kill -s CONT "$SERVE_PID" 2>/dev/null; stop_pid "$SERVE_PID" KILL; stop_pid "$SECOND_PID" KILL' EXIT
  serve fence
  local first
  first=$(uri fence)
  qemu-io -f raw "$first" -c 'write -f -P 1 0 64k'
  kill -s STOP "$SERVE_PID"
  serve_elsewhere --takeover
  wait_for 60 "the second server" second_is_ready
  local second="nbd+unix:///fence?socket=$SHM/second.sock"
  qemu-io -f raw "$second" -c 'read -P 1 0 64k' -c 'write -f -P 2 0 64k' | tee "$WORK/second.log"
  ! grep -qi failed "$WORK/second.log" || fail "the new owner cannot work"
  kill -s CONT "$SERVE_PID"
  # Any of these may be the one that tells it; a success would be the end of somebody's data.
  local try
  for try in 1 2 3; do
    timeout 60 qemu-io -f raw "$first" -c "write -f -P 3 0 64k" >"$WORK/first.log" 2>&1 || true
    cat "$WORK/first.log"
    if grep -q '^wrote 65536' "$WORK/first.log"; then fail "a fenced server completed a FUA write (try $try)"; fi
  done
  qemu-io -f raw "$second" -c 'read -P 2 0 64k' | tee "$WORK/second.log"
  ! grep -qi failed "$WORK/second.log" || fail "the new owner's data changed"
}

need_esker
has python3 || { skipped "everything: no python3"; exit 0; }
say "seed $SEED"
start_s3d --seed "$SEED" --delay lognormal:3ms,2 \
  --fault '{"probability":0.02,"action":{"reply":{"status":503,"code":"SlowDown"}}}' \
  --fault '{"kinds":["create"],"probability":0.02,"action":"apply_then_drop"}' \
  --fault '{"kinds":["create"],"probability":0.01,"action":{"reply":{"status":409,"code":"ConditionalRequestConflict"}}}' \
  --fault '{"kinds":["get"],"probability":0.01,"action":{"cut_body":{"keep":100}}}'
format_pool
new_volume daemon 64M
new_volume lost 64M
new_volume fence 64M
run_case "the daemon dies $ROUNDS times" daemon_dies
run_case "the journal is lost $ROUNDS times" journal_lost
run_case "they have compacted meanwhile, every other round" compacted
run_case "a volume in use is refused on the same host" in_use serve_here
run_case "a volume in use is refused on another host" in_use serve_elsewhere
run_case "a server that slept through a takeover gets no success" sleeper
