#!/usr/bin/env bash
# Devices made and removed in a loop, killed while they are made, without a store, with a stuck or dead daemon: no command
# hangs, and nothing is left behind. And that an idle device costs nothing.
#
# LOOPS   times that devices are made and removed, and killed meanwhile [20]
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

LOOPS=${LOOPS:-20}

add_and_remove() {
  mine disk
  local i
  for ((i = 0; i < LOOPS; i++)); do
    attach disk
    if [ $((i % 2)) = 0 ]; then detach disk; else kill -s TERM "$PID"; fi
    ends_well "$PID" 30
    [ ! -e "$DEV" ] || fail "round $i: $DEV is still there"
  done
}

# The daemon dies at any time of its first seconds; the next has to cope with what it finds.
killed_while_added() {
  mine disk
  local i
  for ((i = 0; i < LOOPS; i++)); do
    begin_daemon disk --recover
    sleep "$(between 0 1500)"
    kill_daemon
  done
  recover disk
  fio_verify "$DEV" 4M --rw=randwrite --bs=4k --direct=1 --iodepth=16
  expect_exit 0 "$ESKER" detach disk
}

# Killed while it is being removed.
killed_while_removed() {
  mine disk
  local i
  for ((i = 0; i < LOOPS / 2; i++)); do
    recover disk
    dd if=/dev/urandom of="$DEV" bs=64k count=16 oflag=direct status=none
    kill -s TERM "$PID"
    sleep "$(between 0 400)"
    kill_daemon
  done
  recover disk
  expect_exit 0 "$ESKER" detach disk
}

no_store() {
  mine disk
  store_away
  begin_daemon disk
  # It may wait for the store, or say that there is none; it must not hold on to a half-made device.
  sleep 5
  is_gone "$PID" || kill -s TERM "$PID"
  ended "$PID" 60
  say "exit code $CODE"
  [ "$(ublk_devices)" = "$BEFORE" ] || fail "there is a device: $(ublk_devices)"
  [ ! -s "$WORK/disk.out" ] || fail "it said that it was ready"
}

# Every request to the store takes long: no reason to fail.
slow_store() {
  mine disk
  curl -fsS -X PUT -d '{"delay":"300ms"}' "http://$ADMIN/delay"
  attach disk
  dd if="$DEV" of=/dev/null bs=1M count=4 iflag=direct status=none
  expect_exit 0 "$ESKER" detach disk
  curl -fsS -X PUT -d '{"delay":null}' "http://$ADMIN/delay"
}

# The store stops to answer just as the kernel is about to read the partition table.
cold_store() {
  mine cold disk
  attach cold
  dd if=/dev/urandom of="$DEV" bs=1M count=4 oflag=direct status=none
  dd if=/dev/urandom of="$DEV" bs=1M count=4 seek=252 oflag=direct status=none
  expect_exit 0 "$ESKER" detach cold
  local end stuck
  # All log segments of this volume, the second one of the pool; not its openings.
  for end in 1 2 3 4 5 6 7 8; do add_fault '{"kinds":["get"],"key":"*log/00000002/*'$end'","action":"stall"}'; done
  begin_daemon cold
  stuck=$PID
  wait_for 30 "a read to be stalled" fault_was_hit
  # It stands in nobody's way.
  attach disk
  expect_exit 0 "$ESKER" detach disk
  ended "$stuck" 90
  say "exit code $CODE"
  [ $CODE != 0 ] || fail "it ended well"
  no_faults
  attach cold
  expect_exit 0 "$ESKER" detach cold
}

# waits: somebody reads from the device and gets no answer; sets WAITING.
waits() {
  dd if="$DEV" of=/dev/null bs=64k count=1 skip=100 iflag=direct >"$WORK/dd.out" 2>&1 &
  WAITING=$!
  sleep 1
  is_gone "$WAITING" && fail "it was answered"
  return 0
}

is_freed() {
  wait_for 20 "the read to end" is_gone "$WAITING"
  ! wait "$WAITING" || fail "the read was answered"
  wait_for 10 "$DEV to go" test ! -b "$DEV"
  nobody_hangs
}

# What was acknowledged is in the journal, device or not.
still_has_it() {
  attach disk
  cmp -n $((8 << 20)) "$DEV" "$WORK/content" || wrong_data "the content"
  expect_exit 0 "$ESKER" detach disk
}

dead_daemon() {
  mine disk
  attach disk
  dd if="$WORK/content" of="$DEV" bs=1M oflag=direct status=none
  kill_daemon
  waits
  expect_exit 5 "$ESKER" detach disk
  said '--recover'
  said '--force'
  is_gone "$WAITING" && fail "the read ended"
  expect_exit 0 "$ESKER" detach disk --force
  is_freed
  still_has_it
}

dead_under_mount() {
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  kill_daemon
  (ls -lR "$MNT"; echo x >"$MNT/x"; sync -f "$MNT") >"$WORK/ls.out" 2>&1 &
  WAITING=$!
  sleep 1
  expect_exit 0 "$ESKER" detach disk --force
  wait_for 30 "the writer to end" is_gone "$WAITING"
  timeout 30 umount "$MNT" || fail "it cannot be unmounted"
  nobody_hangs
  recover disk
  expect_exit 0 "$ESKER" detach disk
}

# It lives and does nothing.
stopped_daemon() {
  mine disk
  attach disk
  dd if="$WORK/content" of="$DEV" bs=1M oflag=direct status=none
  kill -s STOP "$PID"
  waits
  timeout 20 "$ESKER" list
  expect_exit 0 "$ESKER" detach disk --force
  is_freed
  kill -s CONT "$PID" 2>/dev/null || true
  ended "$PID" 60
  say "exit code $CODE"
  still_has_it
}

# ticks PID: processor time, in ticks of 10 ms.
ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

requests_since_asked() { curl -fsS "http://$ADMIN/log?json" | jq 'length'; }
forget_requests() { curl -fsS -X DELETE "http://$ADMIN/log" >/dev/null; }

# What the cases before left as garbage is deleted once the device has been quiet for some seconds; that comes to an end.
comes_to_rest() {
  local i requests
  for ((i = 0; i < 8; i++)); do
    forget_requests
    sleep 12
    requests=$(requests_since_asked)
    if [ "$requests" = 0 ]; then return; fi
    say "$requests requests in 12 s"
  done
  fail "after $((i * 12)) s without use it still makes requests"
}

# Threads asleep, no requests.
idle() {
  mine disk
  attach disk
  sleep 4
  comes_to_rest
  local before after requests
  before=$(ticks "$PID")
  forget_requests
  sleep 10
  after=$(ticks "$PID")
  requests=$(requests_since_asked)
  say "$((after - before)) ticks and $requests requests in 10 s"
  [ $((after - before)) -le 5 ] || fail "an idle device takes $((after - before)) ticks in 10 s"
  [ "$requests" = 0 ] || fail "an idle device makes requests"
  expect_exit 0 "$ESKER" detach disk
}

open_lab
new_volumes disk:256M cold:256M
head -c 8M /dev/urandom >"$WORK/content"
run_case "$LOOPS times added and removed" add_and_remove
run_case "$LOOPS times killed while it is added" killed_while_added
run_case "killed while it is removed" killed_while_removed
run_case "without a store" no_store
run_case "with a slow store" slow_store
run_case "a store that stops to answer before the start" cold_store
run_case "detach --force with a dead daemon" dead_daemon
run_case "detach --force from under a filesystem" dead_under_mount
run_case "detach --force with a stopped daemon" stopped_daemon
run_case "an idle device" idle
close_lab
