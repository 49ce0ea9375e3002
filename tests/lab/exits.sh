#!/usr/bin/env bash
# Every way out of a device, at the worst moment: the store does not answer. What is killed can be brought back, what is
# forced goes, what is in use stays; nothing waits in the kernel for ever.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

# The store takes connections and answers none of them.
store_hangs() {
  AT_END=store_answers
  kill -s STOP "$(cat "$WORK/store.pid")"
}

store_answers() { kill -s CONT "$(cat "$WORK/store.pid")"; }

# Eight MiB that are acknowledged, and only in the journal.
write_content() { dd if="$WORK/content" of="$DEV" bs=1M oflag=direct status=none; }

has_content() { cmp -n $((8 << 20)) "$DEV" "$WORK/content" || wrong_data "the content"; }

# killed_while_written_back SIGNAL: after the one that made it write back.
killed_while_written_back() {
  mine disk
  attach disk
  store_hangs
  write_content
  kill -s TERM "$PID"
  sleep 3
  kill -s "$1" "$PID"
  wait_for 10 "the end of process $PID" is_gone "$PID" || { show_stuck; exit 1; }
  wait "$PID" 2>/dev/null || true
  store_answers
  recover disk
  has_content
  expect_exit 0 "$ESKER" detach disk
  nobody_hangs
}

# A request that was not acknowledged waits for the store, its process lives.
forced() {
  mine disk
  attach disk
  write_content
  store_hangs
  dd if=/dev/zero of="$DEV" bs=64k count=1 seek=1000 oflag=direct,sync status=none 2>"$WORK/dd.out" &
  local writer=$!
  sleep 1
  is_gone $writer && fail "it was answered"
  expect_exit 0 "$ESKER" detach disk --force
  wait_for 5 "the write to end" is_gone $writer
  ! wait $writer || fail "the write was answered"
  ended "$PID" 20
  nobody_hangs
  store_answers
  attach disk
  has_content
  expect_exit 0 "$ESKER" detach disk
}

# The journal is full, and more waits for room in it than may wait in memory.
forced_while_full() {
  DATA=(--journal-dir "$SHM/journal" --state-dir "$WORK/state" --journal-size 16M --cache-size 64M)
  mine disk
  attach disk
  store_hangs
  fio --name=full --filename="$DEV" --rw=write --bs=1M --size=128M --iodepth=64 --ioengine=libaio --direct=1 \
    </dev/null >"$WORK/fio.out" 2>&1 &
  local writer=$!
  sleep 4
  is_gone $writer && fail "all was answered"
  expect_exit 0 "$ESKER" detach disk --force
  wait_for 5 "the writer to end" is_gone $writer
  ! wait $writer || fail "the writes were answered"
  ended "$PID" 20
  nobody_hangs
  store_answers
  attach disk
  expect_exit 0 "$ESKER" detach disk
}

# What waits for the store already becomes a removal by force.
forced_meanwhile() {
  mine disk
  attach disk
  store_hangs
  write_content
  timeout 80 "$ESKER" detach disk >"$WORK/detach.out" 2>&1 &
  local waiting=$!
  sleep 2
  expect_exit 0 "$ESKER" detach disk --force
  wait_for 10 "the first detach to end" is_gone $waiting
  ended "$PID" 20
  nobody_hangs
  store_answers
  attach disk
  has_content
  expect_exit 0 "$ESKER" detach disk
}

forced_from_under_a_mount() {
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  echo hello >"$MNT/file"
  sync -f "$MNT"
  expect_exit 0 "$ESKER" detach disk --force
  ended "$PID" 20
  timeout 30 umount "$MNT" || fail "it cannot be unmounted"
  attach disk
  mount_fs "$DEV"
  [ "$(cat "$MNT/file")" = hello ] || fail "the file"
  umount "$MNT"
  expect_exit 0 "$ESKER" detach disk
}

# Free when it was looked at, and in use when all is written back.
opened_while_written_back() {
  mine disk
  attach disk
  store_hangs
  write_content
  local code=0
  timeout 80 "$ESKER" detach disk >"$WORK/detach.out" 2>&1 &
  local waiting=$!
  sleep 2
  exec 7<>"$DEV"
  store_answers
  wait $waiting || code=$?
  cat "$WORK/detach.out"
  [ $code = 5 ] || fail "exit code $code"
  dd if="$WORK/content" bs=4k count=1 conv=notrunc,fsync status=none >&7 || fail "a write after that"
  exec 7>&-
  expect_exit 0 "$ESKER" detach disk
}

# A look at the device waits for whoever reads its partition table.
stopped_while_rescanned() {
  mine disk
  attach disk
  dd if=/dev/urandom of="$DEV" bs=1M count=4 oflag=direct conv=fsync status=none
  expect_exit 0 "$ESKER" detach disk
  attach disk
  kill_daemon
  recover disk
  store_hangs
  blockdev --rereadpt "$DEV" &
  local scan=$!
  sleep 2
  kill -s TERM "$PID"
  ended "$PID" 75 || { show_stuck; exit 1; }
  store_answers
  is_gone $scan && say "the scan did not wait"
  recover disk
  wait_for 20 "the scan to end" is_gone $scan
  expect_exit 0 "$ESKER" detach disk
  nobody_hangs
}

# Before there is a device, not after.
log_cannot_be_opened() {
  mine disk
  mkdir -p "/run/esker/disk.log"
  expect_exit 1 "$ESKER" attach "$URL" disk "${DATA[@]}" "${FLAGS[@]}"
  rmdir /run/esker/disk.log
  [ "$(ublk_devices)" = "$BEFORE" ] || fail "there is a device"
}

# Nobody can hear the daemon; it serves all the same, and its exit code is its own.
stderr_is_full() {
  mine disk
  : >"$WORK/disk.out"
  "$ESKER" attach "$URL" disk --foreground "${DATA[@]}" "${FLAGS[@]}" >"$WORK/disk.out" 2>/dev/full &
  PID=$!
  ready disk
  write_content
  has_content
  kill -s TERM "$PID"
  ends_well "$PID" 30
  local code=0
  "$ESKER" attach "$URL" nosuch --foreground "${DATA[@]}" "${FLAGS[@]}" 2>/dev/full || code=$?
  [ $code = 6 ] || fail "exit code $code"
}

open_lab
new_volumes disk:256M
head -c 8M /dev/urandom >"$WORK/content"
run_case "killed while it writes back" killed_while_written_back KILL
run_case "told twice to stop while it writes back" killed_while_written_back TERM
run_case "detach --force with a living daemon and no store" forced
run_case "detach --force with a living daemon, no store and a full journal" forced_while_full
run_case "detach --force while another detach waits" forced_meanwhile
run_case "detach --force with a living daemon, from under a filesystem" forced_from_under_a_mount
run_case "opened while it is written back" opened_while_written_back
run_case "SIGTERM while the partition table is read" stopped_while_rescanned
run_case "a log that cannot be opened" log_cannot_be_opened
run_case "stderr cannot be written" stderr_is_full
close_lab
