#!/usr/bin/env bash
# A new process takes a device over from the old one, under a load that checks itself; and what SIGTERM does at each time.
#
# HANDOVERS   of the first case [5]
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

HANDOVERS=${HANDOVERS:-5}

load() {
  fio_verify "$DEV" 96M --rw=randwrite --bsrange=4k-128k --blockalign=4k --iodepth=64 --fsync=48 --randrepeat=0 \
    --randseed="$SEED" --rate=12m,24m --direct=1 &
  LOAD=$!
  sleep "$(between 300 900)"
}

end_load() {
  wait "$LOAD" || fail "the load met an error"
  expect_exit 0 "$ESKER" detach disk
}

# How long a request may have waited at most, as the new process says.
pauses() { grep -hoE 'paused for [0-9.]+ ?m?s' "$WORK/disk.err" || true; }

hand_over() {
  local old=$PID
  attach disk --handover
  ends_well "$old" 30
}

under_load() {
  mine disk
  attach disk
  local i dev=$DEV
  : >"$WORK/disk.err"
  load
  for ((i = 0; i < HANDOVERS; i++)); do
    hand_over
    [ "$DEV" = "$dev" ] || fail "it came as $DEV, not $dev"
    sleep "$(between 100 700)"
  done
  is_gone "$LOAD" && say "note: the load ended before the last handover"
  pauses | sort | uniq -c | tee -a "$WORK/pauses"
  [ -n "$(pauses)" ] || fail "nobody says how long the pause was"
  end_load
}

mounted() {
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  cp -a "$WORK/tree" "$MNT/tree" &
  local copy=$!
  hand_over
  hand_over
  wait $copy || fail "the copy met an error"
  umount "$MNT"
  check_fs ext4 "$DEV"
  mount_fs "$DEV"
  same_tree "$WORK/tree" "$MNT/tree"
  umount "$MNT"
  expect_exit 0 "$ESKER" detach disk
}

# begin_handover: sets OLD and PID, at no particular moment of it.
begin_handover() {
  OLD=$PID
  begin_daemon disk --handover
  sleep "$(between 0 1200)"
}

# serving: whether the process of the last begin_daemon gets there.
serving() {
  local until=$((SECONDS + 40))
  while [ $SECONDS -lt $until ]; do
    if [ -s "$WORK/disk.out" ]; then return 0; fi
    if is_gone "$PID"; then return 1; fi
    sleep 0.1
  done
  fail "neither served nor ended"
  exit 1
}

# Whoever meets SIGTERM, the device and what waits for it stay: the load goes on after at most a recovery.
term_in_between() {
  mine disk
  attach disk
  local i dev=$DEV
  load
  for i in 1 2 3 4; do
    begin_handover
    # It may have ended by then.
    if [ "$1" = old ]; then kill -s TERM "$OLD" 2>/dev/null || true; else kill -s TERM "$PID" 2>/dev/null || true; fi
    [ -b "$dev" ] || fail "the device is gone"
    if [ "$1" = old ]; then
      serving || recover disk
    else
      ended "$PID" 40
      # Either it had begun to take over, or the old one goes on.
      sleep 1
      if is_gone "$OLD"; then recover disk; else PID=$OLD; fi
    fi
    [ -b "$dev" ] || fail "the device is gone"
    is_gone "$LOAD" && break
  done
  end_load
}

killed_in_between() {
  mine disk
  attach disk
  local i
  load
  for i in 1 2 3 4; do
    begin_handover
    kill -s KILL "$OLD" "$PID" 2>/dev/null || true
    wait "$OLD" "$PID" 2>/dev/null || true
    recover disk
  done
  end_load
}

# Nothing but the bucket has it afterwards.
term_flushes() {
  mine disk
  attach disk
  dd if="$WORK/content" of="$DEV" bs=1M oflag=direct status=none
  kill -s TERM "$PID"
  ends_well "$PID" 60
  [ ! -b "$DEV" ] || fail "$DEV is still there"
  rm -rf "$SHM/journal"
  attach disk
  cmp -n "$(stat -c %s "$WORK/content")" "$DEV" "$WORK/content" || wrong_data "the content"
  expect_exit 0 "$ESKER" detach disk
}

term_while_mounted() {
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  cp "$WORK/content" "$MNT/content"
  : >"$WORK/disk.err"
  kill -s TERM "$PID"
  ends_well "$PID" 60
  grep -q "$MNT" "$WORK/disk.err" || fail "it does not say who uses the device"
  [ -b "$DEV" ] || fail "the device is gone from under a filesystem"
  [ "$(state_of disk)" = 'waiting for recovery' ] || fail "its state is '$(state_of disk)'"
  # Without being asked to bring it back, nobody does.
  expect_exit 5 "$ESKER" attach "$URL" disk "${DATA[@]}" "${FLAGS[@]}"
  said '--recover'
  recover disk
  cmp "$MNT/content" "$WORK/content" || wrong_data "the content"
  umount "$MNT"
  check_fs ext4 "$DEV"
  expect_exit 0 "$ESKER" detach disk
}

# A process with two volumes gives up both or none.
all_or_none() {
  mine disk second
  mkdir -p "$SHM/journal"
  "$ESKER" attach "$URL" disk second --foreground "${DATA[@]}" "${FLAGS[@]}" >"$WORK/both.out" 2>>"$WORK/disk.err" &
  local old=$!
  wait_for 60 "two devices" both_are_ready
  expect_exit 5 "$ESKER" attach "$URL" disk --handover "${DATA[@]}" "${FLAGS[@]}"
  is_gone "$old" && fail "the old process let go"
  DEV=$("$ESKER" attach "$URL" disk second --handover "${DATA[@]}" "${FLAGS[@]}" 2>>"$WORK/disk.err" | tail -n 1)
  ends_well "$old" 30
  dd if="$DEV" of=/dev/null bs=1M count=1 iflag=direct status=none
  expect_exit 0 "$ESKER" detach disk
  expect_exit 0 "$ESKER" detach second
}

both_are_ready() { [ "$(wc -l <"$WORK/both.out")" = 2 ]; }

# The service manager is told of the new process when the old one lets go, and not before.
main_process() {
  mine disk second
  mkdir -p "$SHM/journal"
  : >"$WORK/notified"
  python3 -u -c 'import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
while True: print(s.recv(4096).decode(), flush=True)' "$WORK/notify" >"$WORK/notified" &
  local listener=$!
  AT_END="kill $listener"
  wait_for 10 "the listener" test -S "$WORK/notify"
  "$ESKER" attach "$URL" disk second --foreground "${DATA[@]}" "${FLAGS[@]}" >"$WORK/both.out" 2>>"$WORK/disk.err" &
  local old=$!
  wait_for 60 "two devices" both_are_ready
  NOTIFY_SOCKET=$WORK/notify expect_exit 5 "$ESKER" attach "$URL" disk --handover --foreground "${DATA[@]}" "${FLAGS[@]}"
  ! grep MAINPID "$WORK/notified" | grep -vx "MAINPID=$old" || fail "a process that was refused said that it is the main one"
  expect_exit 0 "$ESKER" detach second
  NOTIFY_SOCKET=$WORK/notify begin_daemon disk --handover
  ready disk
  ends_well "$old" 30
  grep -qx "MAINPID=$PID" "$WORK/notified" || fail "notified: $(cat "$WORK/notified")"
  expect_exit 0 "$ESKER" detach disk
}

from_nobody() {
  mine disk
  expect_exit 6 "$ESKER" attach "$URL" disk --handover "${DATA[@]}" "${FLAGS[@]}"
}

open_lab
new_volumes disk:512M second:256M
make_tree "$WORK/tree"
head -c 24M /dev/urandom >"$WORK/content"
run_case "$HANDOVERS handovers under fio" under_load
if [ -s "$WORK/pauses" ]; then say "pauses:"; cat "$WORK/pauses"; fi
run_case "handovers under a mounted ext4" mounted
run_case "SIGTERM to the old process in between" term_in_between old
run_case "SIGTERM to the new process in between" term_in_between new
run_case "both killed in between" killed_in_between
run_case "a plain SIGTERM writes back and removes" term_flushes
run_case "SIGTERM while mounted leaves the device" term_while_mounted
run_case "two volumes: both or none" all_or_none
run_case "the main process of a service" main_process
run_case "from nobody: refused" from_nobody
close_lab
