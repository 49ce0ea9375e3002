# shellcheck shell=bash
# Steps of scripts/test: each in a group of processes of its own, so that it can be ended as a whole, with a log of its own,
# and booked by name whatever comes of it. To be sourced.
#
# TEST_MINUTES   steps that would not end within so many minutes of the start are skipped, and named as such [80]. Six minutes
#                later whatever still runs is ended and has failed: a step that hangs must not cost the report. With --no-skip
#                there is no limit

LOGS=$(mktemp -d "${TMPDIR:-/tmp}/esker-scripts-test.XXXXXX")
DONE=() FAILED=() SKIPPED=()
RUNNING=()     # groups of processes
OVER=''        # the time is up
INTERRUPTED='' # a wait ended because of that, not because of what was waited for

trap 'end_running; rm -rf "$LOGS"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap out_of_time USR1

say() { printf '%s\n' "$*"; }
has() { command -v "$1" >/dev/null; }
skipped() { SKIPPED+=("$*"); }
# cannot WHAT: as `skipped`, where it counts with --no-skip.
cannot() { if [ -n "${NO_SKIP-}" ]; then FAILED+=("$* (skipped)"); else skipped "$*"; fi; }
log_of() { say "$LOGS/$(tr -c 'a-z0-9\n' '-' <<<"$1").log"; }

# --- groups of processes

# begin COMMAND...: in the background. Sets PID.
begin() {
  set -m
  "$@" </dev/null &
  PID=$!
  set +m
  RUNNING+=("$PID")
}

# await PID: sets STATUS.
await() {
  while true; do
    INTERRUPTED='' STATUS=0
    wait "$1" || STATUS=$?
    [ -n "$INTERRUPTED" ] || break
  done
  forget "$1"
}

forget() {
  local pid left=()
  for pid in "${RUNNING[@]}"; do if [ "$pid" != "$1" ]; then left+=("$pid"); fi; done
  RUNNING=("${left[@]}")
}

# signal_all SIGNAL
signal_all() {
  local pid
  for pid in "${RUNNING[@]}"; do kill -s "$1" -- "-$pid" 2>/dev/null || true; done
}

any_left() {
  local pid
  for pid in "${RUNNING[@]}"; do if kill -s 0 -- "-$pid" 2>/dev/null; then return 0; fi; done
  return 1
}

# They do not hear of Ctrl-C by themselves. What they have set up they take down, if that does not take long.
end_running() {
  local i
  signal_all TERM
  for ((i = 0; i < 75; i++)); do
    any_left || return 0
    sleep 0.2
  done
  signal_all KILL
}

# end_after MINUTES: the limit on everything.
end_after() {
  local limit=$1
  watch() { sleep $((limit * 60)); kill -s USR1 $$; }
  begin watch
}

out_of_time() {
  INTERRUPTED=1 OVER=1
  say "=== out of time: ending what still runs"
  end_running
}

# --- steps

# step NAME COMMAND...: runs one step, shows and keeps its output, goes on whatever comes of it.
step() {
  local name=$1 begun=$SECONDS
  shift
  if [ -n "$OVER" ]; then FAILED+=("$name (not begun: out of time)"); return 1; fi
  say "" "=== $name: $*"
  begin shown "$(log_of "$name")" "$@"
  await "$PID"
  book "$name" "$STATUS" $((SECONDS - begun))
}

# step_here NAME COMMAND...: the same for a step that may ask something at the terminal, as sudo does for a password: only the
# group of this script may read there.
step_here() {
  local name=$1 begun=$SECONDS status=0
  shift
  say "" "=== $name: $*"
  (shown "$(log_of "$name")" "$@") </dev/null || status=$?
  book "$name" "$status" $((SECONDS - begun))
}

# shown LOG COMMAND...: tee outlives a signal to the group, as whoever cleans up and cannot write would die of that.
shown() {
  local log=$1
  shift
  set +e
  "$@" 2>&1 | (trap '' TERM INT; exec tee "$log")
  exit "${PIPESTATUS[0]}"
}

# book NAME STATUS SECONDS: what came of a step.
book() {
  local line
  while read -r line; do
    cannot "$1: $line"
  done < <(sed -n 's/^skipped //p' "$(log_of "$1")")
  if [ "$2" = 0 ]; then
    DONE+=("$1 ($3 s)")
  else
    FAILED+=("$1 (status $2)")
    return 1
  fi
}

# in_time MINUTES NAME: whether a step that usually takes so long can still be done.
in_time() {
  if [ -z "${NO_SKIP-}" ] && [ $((SECONDS / 60 + $1)) -gt "${TEST_MINUTES:-80}" ]; then
    skipped "$2: out of time after $((SECONDS / 60)) min"
    return 1
  fi
}

# timed MINUTES NAME COMMAND...
timed() {
  if in_time "$1" "$2"; then step "${@:2}"; fi
}

# --- side by side

# side_by_side SCRIPT...: two at a time, each a step, as most of their time is waiting. The output of each is shown when it
# is over.
side_by_side() {
  local script lanes=() waiting=()
  for script in "$@"; do
    while [ ${#lanes[@]} -ge 2 ]; do await_one; done
    in_time 6 "$script" || continue
    if [ -n "$OVER" ]; then FAILED+=("$script (not begun: out of time)"); continue; fi
    begin in_lane "$script"
    lanes+=("$PID") waiting+=("$script")
  done
  while [ ${#lanes[@]} -gt 0 ]; do await_one; done
  for script in "${waiting[@]}"; do show_lane "$script" "broken off" 0; done
}

in_lane() {
  local begun=$SECONDS status=0
  "$1" >"$(log_of "$1")" 2>&1 || status=$?
  say "$status $((SECONDS - begun))" >"$(log_of "$1").new"
  mv "$(log_of "$1").new" "$(log_of "$1").status"
}

# await_one: until one of the `lanes` has ended; shows those of the `waiting` that have.
await_one() {
  local pid script status seconds left=()
  wait -n "${lanes[@]}" || true
  for pid in "${lanes[@]}"; do
    if kill -s 0 "$pid" 2>/dev/null; then left+=("$pid"); else forget "$pid"; fi
  done
  lanes=("${left[@]}") left=()
  for script in "${waiting[@]}"; do
    if read -r status seconds 2>/dev/null <"$(log_of "$script").status"; then show_lane "$script" "$status" "$seconds"
    else left+=("$script")
    fi
  done
  waiting=("${left[@]}")
}

# show_lane SCRIPT STATUS SECONDS
show_lane() {
  say "" "=== $1"
  cat "$(log_of "$1")" || true
  book "$@" || true
}

# --- the end

closing_line() { grep -hE '^ *Summary \[|^test result:' "$LOGS"/tests*.log 2>/dev/null | tail -n 1 || true; }

report() {
  local line
  say "" "=== scripts/test, $((SECONDS / 60)) min $((SECONDS % 60)) s"
  for line in "${DONE[@]}"; do say "passed   $line"; done
  for line in "${SKIPPED[@]}"; do say "skipped  $line"; done
  for line in "${FAILED[@]}"; do say "FAILED   $line"; done
  closing_line
  say "scripts/test: ${#DONE[@]} steps passed, ${#FAILED[@]} failed, ${#SKIPPED[@]} things skipped"
  [ ${#FAILED[@]} = 0 ]
}
