#!/usr/bin/env bash
# Memory runs short while ext4 has dirty pages to write to the device: they must get out through a daemon that needs memory
# itself. More is written than the machine has; it must end, and be right. For a guest with 512 MiB.
#
# STORE_DIR   where the store keeps its objects: outside of this machine's memory
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

MIB=${MIB:-500}

# The same bytes each time, which nobody compresses.
stream() { openssl enc -aes-128-ctr -nosalt -pass pass:stream -pbkdf2 -iter 1 -in /dev/zero 2>/dev/null | head -c "${MIB}M" || true; }

hog() {
  # Takes memory in steps and keeps touching it, so that the kernel has to look for some.
  exec python3 -c '
import time
kept = []
for _ in range(4):
    kept.append(bytearray(b"x" * (24 << 20)))
    time.sleep(1)
while True:
    for block in kept:
        for i in range(0, len(block), 4096):
            block[i] = 1
    time.sleep(1)'
}

dirty_pages() {
  need openssl
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  # Let them pile up.
  echo 70 >/proc/sys/vm/dirty_ratio
  echo 50 >/proc/sys/vm/dirty_background_ratio
  hog &
  local hog=$! sum wrote until=$((SECONDS + 240))
  (stream >"$MNT/large" && sync -f "$MNT") &
  wrote=$!
  until is_gone $wrote; do
    if [ $SECONDS -ge $until ]; then
      free -m
      df "$MNT"
      show_stuck
      fail "not done after 240 s"
      exit 1
    fi
    sleep 1
  done
  wait $wrote || fail "the writer met an error"
  free -m
  is_gone "$PID" && fail "the daemon is gone"
  sum=$(md5sum <"$MNT/large")
  kill -s KILL $hog 2>/dev/null || say "note: the hog was ended before"
  wait $hog 2>/dev/null || true
  [ "$sum" = "$(stream | md5sum)" ] || wrong_data "the content"
  ! dmesg | grep -E 'Out of memory: Killed process [0-9]+ \((esker|s3d)' || fail "the daemon or the store was killed"
  ! dmesg | grep -E 'blocked for more than' || fail "somebody waited for minutes"
  umount "$MNT"
  check_fs ext4 "$DEV"
  expect_exit 0 "$ESKER" detach disk
}

# The daemon's side of it: what the kernel sees of it.
prepared() {
  mine disk
  attach disk
  grep -E '^(VmLck|VmRSS)' "/proc/$PID/status"
  [ "$(awk '/^VmLck/ { print $2 }' "/proc/$PID/status")" -gt 0 ] || fail "none of its memory is locked"
  [ "$(cat "/proc/$PID/oom_score_adj")" = -1000 ] || fail "it may be killed where memory is short: $(cat "/proc/$PID/oom_score_adj")"
  # PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, of each thread: what PR_SET_IO_FLUSHER sets.
  local t flags
  for t in /proc/"$PID"/task/*; do
    flags=$(awk '{ sub(/.*\) /, ""); print $7 }' "$t/stat")
    [ $((flags & 0x80000)) != 0 ] || fail "thread $(cat "$t/comm") is no I/O flusher: $flags"
  done
  expect_exit 0 "$ESKER" detach disk
}

DATA=(--journal-dir "$SHM/journal" --state-dir "$WORK/state" --journal-size 48M --cache-size 32M)
[ -z "${STORE_DIR-}" ] || ln -s "$STORE_DIR" "$WORK/s3"
open_lab
new_volumes disk:2G
run_case "the daemon's memory is locked, its threads are I/O flushers" prepared
run_case "$MIB MiB through ext4 with $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB of memory" dirty_pages
close_lab
