#!/usr/bin/env bash
# kill -9 of the daemon at random moments under a load that checks itself, and back with --recover: whoever uses the device
# sees a pause and no error, and everything that was acknowledged is there. Where that cannot be, the device is failed.
#
# ROUNDS   kills in all, half on the raw device and half on ext4 [20]
# SEED     what the moments are drawn from
# ONLY     rounds: these only; special: all but these; made: the cases about records only
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-20}
ONLY=${ONLY-}
# So that there are kills in each stretch of the load: while it writes and while it reads all back.
RATE=24m

# --- loads that go on through the kills

fio_load() {
  fio_verify "$1" 96M --rw=randwrite --bsrange=4k-128k --blockalign=4k --iodepth=64 --fsync=48 --randrepeat=0 \
    --randseed="$2" --rate="$RATE,$RATE" --direct=1
}

# Through the page cache, and read back past it.
tree_load() {
  rm -rf "$MNT/tree"
  cp -a "$WORK/tree" "$MNT/tree"
  sync -f "$MNT"
  echo 3 >/proc/sys/vm/drop_caches
  same_tree "$WORK/tree" "$MNT/tree"
}

# load TARGET PASS
load() {
  case $1 in
    raw) fio_load "$DEV" $((SEED + $2)) ;;
    ext4) if [ $(($2 % 3)) = 0 ]; then tree_load; else fio_load "$MNT/fio" $((SEED + $2)); fi ;;
  esac
}

# --- rounds

LONGEST=0

# One kill and recovery of `disk`, timed.
round() {
  local began
  kill_daemon
  sleep "$(between 0 250)"
  began=$(date +%s%N)
  recover disk
  began=$((($(date +%s%N) - began) / 1000000))
  if [ $began -gt "$LONGEST" ]; then LONGEST=$began; fi
}

rounds() {
  local target=$1 want=$2 done=0 pass=0 load
  mine disk
  attach disk
  if [ "$target" = ext4 ]; then
    make_fs ext4 "$DEV"
    mount_fs "$DEV"
  fi
  while [ $done -lt "$want" ]; do
    pass=$((pass + 1))
    load "$target" $pass &
    load=$!
    while [ $done -lt "$want" ] && ! is_gone $load; do
      sleep "$(between 50 900)"
      round
      done=$((done + 1))
    done
    wait $load || fail "the load met an error in pass $pass, after $done kills"
  done
  no_device_errors
  if [ "$target" = ext4 ]; then
    umount "$MNT"
    check_fs ext4 "$DEV"
  fi
  expect_exit 0 "$ESKER" detach disk
  printf '%s: %d kills in %d passes, the longest recovery took %d ms\n' "$target" $done $pass "$LONGEST" >>"$WORK/rounds"
}

# --- recoveries that are disturbed

# begin_load: a load on the raw device in the background; sets LOAD.
begin_load() {
  fio_load "$DEV" "$SEED" &
  LOAD=$!
  sleep "$(between 500 1500)"
}

end_load() {
  wait "$LOAD" || fail "the load met an error"
  no_device_errors
  expect_exit 0 "$ESKER" detach disk
}

store_goes() {
  mine disk
  attach disk
  begin_load
  kill_daemon
  store_away
  begin_daemon disk --recover
  sleep 3
  is_gone "$PID" && fail "the daemon gave up"
  is_gone "$LOAD" && fail "the load gave up"
  # Everything else goes on without the store.
  list_json
  in_list disk || fail "not in the list"
  start_store
  READY_LIMIT=120 ready disk
  end_load
}

# Whoever gives up while the store is away leaves the device to the next.
stopped_while_recovering() {
  mine disk
  attach disk
  begin_load
  kill_daemon
  store_away
  begin_daemon disk --recover
  sleep 2
  kill -s TERM "$PID"
  ended "$PID" 30
  say "exit code $CODE"
  [ -b "$DEV" ] || fail "the device is gone"
  is_gone "$LOAD" && fail "the load met its end"
  start_store
  recover disk
  end_load
}

killed_while_recovering() {
  mine disk
  attach disk
  begin_load
  kill_daemon
  local i
  for i in {1..6}; do
    begin_daemon disk --recover
    sleep "$(between 0 1500)"
    kill_daemon
  done
  recover disk
  end_load
}

# The daemon dies at the creation of its opening: ACTION is what the store does with that.
killed_at_the_opening() {
  mine disk
  attach disk
  begin_load
  kill_daemon
  add_fault '{"kinds":["create"],"key":"*log/*/0000000000000000","action":"'"$1"'"}'
  begin_daemon disk --recover
  wait_for 60 "the opening" fault_was_hit
  kill_daemon
  # What was stalled lands now, from a daemon that is dead.
  no_faults
  recover disk
  end_load
}

# --- devices that must not come back

# begin_reads: somebody waits for the device; sets WAITING.
begin_reads() {
  dd if="$DEV" of=/dev/null bs=64k count=1 skip=100 iflag=direct >"$WORK/dd.out" 2>&1 &
  WAITING=$!
  sleep 0.5
  is_gone "$WAITING" && fail "a read completed without a daemon: $(cat "$WORK/dd.out")"
  return 0
}

# The device is failed: the daemon says why, who waited gets an error, and the device is gone.
is_failed() {
  ended "$PID" 60
  tail -n 5 "$WORK/$1.err"
  [ $CODE = 5 ] || fail "exit code $CODE, not 5"
  wait_for 20 "the read to fail" is_gone "$WAITING"
  ! wait "$WAITING" || fail "the read was answered"
  grep -q 'Input/output error' "$WORK/dd.out" || fail "the read said: $(cat "$WORK/dd.out")"
  wait_for 10 "$DEV to go" test ! -b "$DEV"
  tail -n 5 "$WORK/$1.err" | grep -qiE "$2" || fail "the daemon does not say '$2'"
}

written() { dd if=/dev/urandom of="$DEV" bs=64k count=64 oflag=direct status=none; }

ring_gone() {
  mine ringless
  attach ringless
  written
  kill_daemon
  begin_reads
  rm "$SHM"/journal/*
  : >"$WORK/ringless.err"
  begin_daemon ringless --recover
  is_failed ringless 'journal'
  # Said in words, the volume is to be had again.
  attach ringless --takeover --lose-journal
  expect_exit 0 "$ESKER" detach ringless
}

# Another host, by its own account.
other_host() {
  local root=$WORK/other
  mkdir -p "$root/etc" "$root/proc/sys/kernel/random" "$root/sys/class/dmi/id" "$SHM/other"
  echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
  echo 11111111-2222-3333-4444-555555555555 >"$root/proc/sys/kernel/random/boot_id"
  echo 99999999-8888-7777-6666-555555555555 >"$root/sys/class/dmi/id/product_uuid"
  : >"$WORK/other.out"
  ESKER_HOST_ROOT=$root "$ESKER" serve "$URL" "$1" --takeover --journal-dir "$SHM/other" --state-dir "$WORK/other-state" \
    --journal-size 32M --unix "$SHM/other.nbd" --control "$SHM/other.sock" "${FLAGS[@]}" >"$WORK/other.out" 2>>"$WORK/other.err" &
  OTHER=$!
  wait_for 60 "the other host" grep -q '^ready' "$WORK/other.out"
}

taken_while_dead() {
  mine taken
  attach taken
  written
  kill_daemon
  begin_reads
  other_host taken
  : >"$WORK/taken.err"
  begin_daemon taken --recover
  is_failed taken 'taken over|another|writer|owner|epoch'
  stop_pid "$OTHER" TERM
}

# The daemon lives and learns of it by its next write to the store.
taken_while_alive() {
  mine stolen
  attach stolen
  written
  sync "$DEV"
  other_host stolen
  dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct,sync status=none 2>"$WORK/dd.out" && fail "a write that was forced out was acknowledged"
  grep -q 'Input/output error' "$WORK/dd.out" || fail "the write said: $(cat "$WORK/dd.out")"
  stop_pid "$OTHER" TERM
  # Removed, though not written back: what it has may not go to the store any more.
  expect_exit 5 "$ESKER" detach stolen --force
  said 'removed'
  wait_for 10 "$DEV to go" test ! -b "$DEV"
}

# --- devices that are brought back as they were made

# contradicts WHY FLAG...: what is asked for is not what the device is. Refused before anything has happened.
contradicts() {
  local state
  state=$(state_of disk)
  expect_exit 2 "$ESKER" attach "$URL" disk --foreground "${@:2}" "${FLAGS[@]}"
  said "$1"
  [ "$(state_of disk)" = "$state" ] || fail "the device is $(state_of disk), not $state"
}

as_it_was_made() {
  local rest=(--state-dir "$WORK/state" --journal-size 64M --cache-size 64M)
  mine disk
  attach disk
  begin_load
  contradicts 'journal lies in' --handover --journal-dir "$SHM/elsewhere" "${rest[@]}"
  contradicts 'leave out --read-only' --handover --read-only "${rest[@]}"
  kill_daemon
  contradicts 'journal lies in' --recover --journal-dir "$SHM/elsewhere" "${rest[@]}"
  contradicts 'leave out --read-only' --recover --read-only "${DATA[@]}"
  # Its journal is found without being named.
  DATA=("${rest[@]}")
  recover disk
  end_load
}

# What another version of esker has left is in no other device's way.
unreadable_record() {
  mine disk
  attach disk
  begin_load
  echo '{"format":2}' >/run/esker/devices/ublkb99.json
  AT_END='rm -f /run/esker/devices/ublkb99.json'
  kill_daemon
  expect_exit 0 "$ESKER" list
  said 'ublkb99 .*unreadable record'
  recover disk
  expect_exit 1 "$ESKER" detach /dev/ublkb99
  end_load
}

# deleted VOLUME: by somebody who does not know this host's records.
deleted() {
  mv /run/esker/devices /run/esker/hidden
  "$ESKER" volume delete "$URL" "$1" --yes --journal-dir "$SHM/journal" --state-dir "$WORK/state" "${FLAGS[@]}" >"$WORK/delete.out" 2>&1 ||
    fail "$(cat "$WORK/delete.out")"
  rm -rf /run/esker/devices
  mv /run/esker/hidden /run/esker/devices
}

deleted_while_dead() {
  mine doomed
  attach doomed
  written
  kill_daemon
  begin_reads
  deleted doomed
  : >"$WORK/doomed.err"
  begin_daemon doomed --recover
  is_failed doomed 'deleted'
}

# Tries that cannot open anything use up nothing.
journal_held() {
  mine disk
  attach disk
  begin_load
  kill_daemon
  local holder volume
  volume=$(jq -r .number "/run/esker/devices/${DEV#/dev/}.json")
  # Cases that gave a volume up leave its journal behind.
  flock "$(echo "$SHM"/journal/*-"$(printf %08x "$volume")"-*.ring)" sleep 15 &
  holder=$!
  begin_daemon disk --recover
  sleep 12
  is_gone "$PID" && fail "the daemon gave up"
  local writers
  writers=$(jq '.writers | length' "/run/esker/devices/${DEV#/dev/}.json")
  [ "$writers" -le 2 ] || fail "$writers writers on record"
  wait $holder
  ready disk
  end_load
}

open_lab
new_volumes disk:512M ringless:256M taken:256M stolen:256M doomed:256M
make_tree "$WORK/tree"
if [ "$ONLY" = "" ] || [ "$ONLY" = rounds ]; then
  raw=$((ROUNDS - ROUNDS / 2))
  run_case "$raw kills under fio on the raw device" rounds raw $raw
  run_case "$((ROUNDS / 2)) kills under fio and copies on ext4" rounds ext4 $((ROUNDS / 2))
  if [ -s "$WORK/rounds" ]; then cat "$WORK/rounds"; fi
fi
if [ "$ONLY" = "" ] || [ "$ONLY" = special ]; then
  run_case "the store is away during recovery" store_goes
  run_case "SIGTERM while recovery waits for the store" stopped_while_recovering
  run_case "killed again and again while recovering" killed_while_recovering
  run_case "killed after the seal, before the opening" killed_at_the_opening stall
  run_case "killed after the opening, before its answer" killed_at_the_opening apply_then_stall
  run_case "the journal is gone: failed" ring_gone
  run_case "taken over while the daemon was dead: failed" taken_while_dead
  run_case "taken over while the daemon lives: no flush completes" taken_while_alive
fi
if [ "$ONLY" = "" ] || [ "$ONLY" = special ] || [ "$ONLY" = made ]; then
  run_case "asked for in another way than it was made: refused" as_it_was_made
  run_case "a record that cannot be read" unreadable_record
  run_case "the journal is held for a while" journal_held
  run_case "deleted while the daemon was dead: failed" deleted_while_dead
fi
close_lab
