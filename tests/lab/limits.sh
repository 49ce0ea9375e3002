#!/usr/bin/env bash
# What a device says of itself, and the ways to make one: block sizes, discards, write cache, schedulers, several devices
# in one process and in several, several queues, read-only, a number of one's own.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

# shows ATTRIBUTE VALUE: what stands in the device's queue directory.
shows() {
  local is
  is=$(cat "/sys/block/${DEV#/dev/}/queue/$1")
  say "$1: $is"
  [ "$is" = "$2" ] || fail "$1 is '$is', not '$2'"
}

at_least() {
  local is
  is=$(cat "/sys/block/${DEV#/dev/}/queue/$1")
  say "$1: $is"
  [ "$is" -ge "$2" ] || fail "$1 is $is, less than $2"
}

# values VOLUME LOGICAL SIZE
values() {
  mine "$1"
  attach "$1"
  lsblk -t "$DEV"
  lsblk -D "$DEV"
  [ "$(blockdev --getsize64 "$DEV")" = "$3" ] || fail "its size"
  shows logical_block_size "$2"
  shows physical_block_size 4096
  shows minimum_io_size 4096
  shows optimal_io_size 32768
  shows max_sectors_kb 1024
  shows discard_granularity 4096
  at_least discard_max_bytes $((1 << 30))
  at_least write_zeroes_max_bytes $((1 << 30))
  shows write_cache 'write back'
  shows fua 1
  shows rotational 0
  [ "$(cat "/sys/block/${DEV#/dev/}/ro")" = 0 ] || fail "it is read-only"
  [ "$(lsblk -dbno DISC-GRAN "$DEV" | tr -d ' ')" = 4096 ] || fail "lsblk -D"
  [ "$(lsblk -dno LOG-SEC,PHY-SEC,OPT-IO,ROTA "$DEV" | xargs)" = "$2 4096 32768 0" ] || fail "lsblk -t"
  expect_exit 0 "$ESKER" detach "$1"
  ends_well "$PID" 20
  [ ! -e "$DEV" ] || fail "$DEV is still there"
}

# Requests as small as a logical block and as large as the device takes, zeroed and discarded ranges.
requests() {
  mine small
  attach small
  head -c 1536 /dev/urandom >"$WORK/odd"
  dd if="$WORK/odd" of="$DEV" bs=512 seek=7 oflag=direct conv=notrunc status=none
  cmp <(dd if="$DEV" bs=512 skip=7 count=3 iflag=direct status=none) "$WORK/odd" || wrong_data "sectors of 512 bytes"
  head -c 4M /dev/urandom >"$WORK/large"
  dd if="$WORK/large" of="$DEV" bs=4M seek=1 oflag=direct conv=notrunc,fsync status=none
  cmp <(dd if="$DEV" bs=4M skip=1 count=1 iflag=direct status=none) "$WORK/large" || wrong_data "a large request"
  blkdiscard -o $((5 << 20)) -l $((1 << 20)) "$DEV"
  blkdiscard -z -o $((6 << 20)) -l $((1 << 20)) "$DEV"
  is_zero 5 2 || fail "it does not read as zeroes where it was discarded or zeroed"
  cmp -n $((1 << 20)) -i $((4 << 20)):0 "$DEV" "$WORK/large" || wrong_data "what lies before"
  cmp -n $((1 << 20)) -i $((7 << 20)):$((3 << 20)) "$DEV" "$WORK/large" || wrong_data "what lies behind"
  blkdiscard "$DEV"
  is_zero 0 16 || fail "it is not empty after all of it was discarded"
  # Beyond the end there is nothing.
  ! dd if=/dev/zero of="$DEV" bs=4k count=1 seek=$((1 << 40 >> 12)) oflag=direct status=none 2>/dev/null || fail "written beyond the end"
  expect_exit 0 "$ESKER" detach small
}

# is_zero MIB COUNT
is_zero() { cmp -n $(($2 << 20)) -i $(($1 << 20)):0 "$DEV" /dev/zero; }

schedulers() {
  mine small
  attach small
  local queue=/sys/block/${DEV#/dev/}/queue s
  cat "$queue/scheduler"
  for s in none mq-deadline none; do
    echo $s >"$queue/scheduler" || fail "no scheduler $s"
    grep -q "\[$s\]" "$queue/scheduler" || fail "$s is not in force"
    fio_verify "$DEV" 16M --rw=randrw --bsrange=4k-64k --blockalign=4k --direct=1 --iodepth=32 --offset=64M
  done
  # The first scheduler again, under load.
  fio_verify "$DEV" 24M --rw=randwrite --bs=8k --direct=1 --iodepth=32 &
  local load=$!
  for s in mq-deadline none mq-deadline none; do sleep 0.2; echo $s >"$queue/scheduler"; done
  wait $load
  expect_exit 0 "$ESKER" detach small
}

several_in_one() {
  mine one two three
  mkdir -p "$SHM/journal"
  "$ESKER" attach "$URL" one two three --foreground "${DATA[@]}" "${FLAGS[@]}" >"$WORK/several.out" 2>>"$WORK/one.err" &
  PID=$!
  wait_for 60 "three devices" has_lines 3 "$WORK/several.out"
  mapfile -t devices <"$WORK/several.out"
  local d pids=()
  for d in "${devices[@]}"; do
    [ -b "$d" ] || fail "$d is no block device"
    (fio_verify "$d" 16M --rw=randwrite --bs=16k --direct=1 --iodepth=16 --randseed="${d#/dev/ublkb}") &
    pids+=($!)
  done
  for d in "${pids[@]}"; do wait "$d"; done
  cmp -s -n $((16 << 20)) "${devices[0]}" "${devices[1]}" && wrong_data "two devices, one content"
  # One goes, the others stay.
  expect_exit 0 "$ESKER" detach two
  [ ! -e "${devices[1]}" ] || fail "${devices[1]} is still there"
  is_gone "$PID" && fail "the daemon went with one of its volumes"
  dd if="${devices[0]}" of=/dev/null bs=1M count=8 iflag=direct status=none
  expect_exit 0 "$ESKER" detach "${devices[0]}"
  expect_exit 0 "$ESKER" detach three
  ends_well "$PID" 20
}

has_lines() { [ "$(wc -l <"$2")" -ge "$1" ]; }

several_processes() {
  mine one two
  attach one
  local pid=$PID dev=$DEV
  attach two
  [ "$dev" != "$DEV" ] || fail "both have $DEV"
  dd if=/dev/urandom of="$dev" bs=1M count=4 oflag=direct status=none
  dd if="$dev" of="$DEV" bs=1M count=4 conv=fsync status=none
  cmp -n $((4 << 20)) "$dev" "$DEV" || wrong_data "the copy"
  # The death of one is nothing to the other.
  kill -s KILL "$pid"
  wait "$pid" || true
  dd if="$DEV" of=/dev/null bs=1M count=4 iflag=direct status=none
  attach one --recover
  [ "$DEV" = "$dev" ] || fail "it came back as $DEV, not $dev"
  expect_exit 0 "$ESKER" detach one
  expect_exit 0 "$ESKER" detach two
}

queues() {
  mine small
  attach small --queues 3 --depth 32
  local n
  n=$(find "/sys/block/${DEV#/dev/}/mq" -mindepth 1 -maxdepth 1 | wc -l)
  say "$n hardware queues"
  # The kernel keeps no more queues than it has CPUs for.
  [ "$n" -ge 1 ] && [ "$n" -le 3 ] || fail "$n queues"
  fio_verify "$DEV" 24M --rw=randrw --bs=4k --direct=1 --iodepth=16 --numjobs=3 --offset_increment=24M
  expect_exit 0 "$ESKER" detach small
}

read_only() {
  mine small
  attach small
  head -c 1M /dev/urandom >"$WORK/kept"
  dd if="$WORK/kept" of="$DEV" bs=1M oflag=direct status=none
  expect_exit 0 "$ESKER" detach small
  attach small --read-only
  [ "$(cat "/sys/block/${DEV#/dev/}/ro")" = 1 ] || fail "the kernel does not know it as read-only"
  ! dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct status=none 2>/dev/null || fail "written to"
  ! blkdiscard -l 4096 "$DEV" 2>/dev/null || fail "discarded"
  cmp -n $((1 << 20)) "$DEV" "$WORK/kept" || wrong_data "its content"
  expect_exit 0 "$ESKER" detach small
}

# A device keeps its number; one that is taken is refused.
numbers() {
  mine small one
  attach small --id 23
  [ "$DEV" = /dev/ublkb23 ] || fail "$DEV"
  expect_exit 5 "$ESKER" attach "$URL" one --id 23 "${DATA[@]}" "${FLAGS[@]}"
  said 'ublkb23|small'
  expect_exit 0 "$ESKER" detach /dev/ublkb23
  attach small
  [ "$DEV" = /dev/ublkb23 ] || fail "it has another number now: $DEV"
  expect_exit 0 "$ESKER" detach 23
}

# In the background, as people call it: the path on stdout, the command ends, the device stays.
background() {
  mine small
  DEV=$("$ESKER" attach "$URL" small "${DATA[@]}" "${FLAGS[@]}")
  [ -b "$DEV" ] || fail "'$DEV' is no block device"
  "$ESKER" list
  list_json
  in_list small || fail "not in the list"
  [ "$(state_of small)" = live ] || fail "its state is '$(state_of small)'"
  expect_exit 5 "$ESKER" attach "$URL" small "${DATA[@]}" "${FLAGS[@]}"
  expect_exit 0 "$ESKER" detach small
  ! in_list small || fail "still in the list"
  expect_exit 0 "$ESKER" list
}

# links: what people name devices by.
links() {
  mine small
  attach small
  local link
  link=$(find /dev/esker -name small 2>/dev/null)
  [ -n "$link" ] && [ "$(realpath "$link")" = "$DEV" ] || fail "no link below /dev/esker leads to $DEV: '$link'"
  expect_exit 0 "$ESKER" detach "$link"
  [ ! -L "$link" ] || fail "$link is still there"
}

open_lab
VOLUME_FLAGS=(--block-size 4096)
new_volumes large:4G
VOLUME_FLAGS=(--block-size 512)
new_volumes small:1G one:256M two:256M three:256M
run_case "values with logical blocks of 512 bytes" values small 512 $((1 << 30))
run_case "values with logical blocks of 4096 bytes" values large 4096 $((4 << 30))
run_case "requests of all sizes, discards, zeroes" requests
run_case "schedulers none and mq-deadline" schedulers
run_case "three devices in one process" several_in_one
run_case "devices in several processes" several_processes
run_case "several queues" queues
run_case "read-only" read_only
run_case "numbers" numbers
run_case "in the background" background
run_case "links below /dev/esker" links
close_lab
