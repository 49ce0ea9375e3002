#!/usr/bin/env bash
# Real NBD clients on a real S3 server: nbdinfo, nbdcopy, qemu-img, qemu-io and fio, each against every kind of store.
#
#   tests/clients.sh               on s3d, on moto (a part of it: moto is slow) and on file://
#   tests/clients.sh s3d file      on these only
#
# Environment: see tests/lib.sh.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

MIB=$((1024 * 1024))

# --- input, made once

make_inputs() {
  # Random and repetitive parts, and a hole: 24 MiB.
  local raw=$WORK/raw.img
  head -c $((12 * MIB)) /dev/urandom >"$raw"
  yes 'the same words again and again' | head -c $((8 * MIB)) >>"$raw" || true
  truncate -s $((24 * MIB)) "$raw"
  # A qcow2 with a filesystem in it, as somebody would bring it: 256 MiB, most of it never written.
  if has mkfs.ext4 && has qemu-img; then
    truncate -s 256M "$WORK/fs.img"
    mkfs.ext4 -q -d "$ROOT/src" "$WORK/fs.img"
    qemu-img convert -c -f raw -O qcow2 "$WORK/fs.img" "$WORK/fs.qcow2"
    rm "$WORK/fs.img"
  fi
}

# --- cases

info() {
  need nbdinfo jq
  local volume json
  nbdinfo --list --json "$(uri copy)" >"$WORK/list.json"
  for volume in copy image io load; do
    jq -e --arg v "$volume" 'any(.exports[]; ."export-name" == $v)' "$WORK/list.json" || fail "$volume is not in the list"
  done
  [ "$(nbdinfo --size "$(uri copy)")" = $((24 * MIB)) ] || fail "the size is wrong"
  json=$(nbdinfo --json "$(uri copy)")
  say "$json"
  local can
  for can in can_flush can_fua can_trim can_zero can_multi_conn can_cache can_fast_zero; do
    jq -e ".exports[0].$can" <<<"$json" || fail "$can is false"
  done
  jq -e '.exports[0].is_read_only | not' <<<"$json"
  jq -e '.exports[0].contexts | index("base:allocation") != null' <<<"$json"
  jq -e '.exports[0].block_size_preferred >= 4096 and .exports[0].block_size_maximum >= 1048576' <<<"$json"
  # What was never written is a hole that reads as zeroes: 3 is hole and zero.
  nbdinfo --map --json "$(uri copy)" | tee "$WORK/map.json"
  jq -e 'all(.[]; .type == 3) and (map(.length) | add) == '$((24 * MIB)) "$WORK/map.json" || fail "the map of a new volume"
}

copy() {
  need nbdcopy cmp
  nbdcopy --flush "$WORK/raw.img" "$(uri copy)"
  nbdcopy "$(uri copy)" "$WORK/out.img"
  cmp "$WORK/raw.img" "$WORK/out.img"
  # One connection and small requests, then many: the order of requests must not matter.
  nbdcopy --connections=1 --requests=1 --request-size=65536 "$(uri copy)" "$WORK/out.img"
  cmp "$WORK/raw.img" "$WORK/out.img"
  rm "$WORK/out.img"
}

map_after_copy() {
  need nbdinfo jq
  nbdinfo --map --json "$(uri copy)" >"$WORK/map.json"
  cat "$WORK/map.json"
  jq -e 'all(.[] | select(.offset < '$((20 * MIB))'); .type == 0)' "$WORK/map.json" || fail "data is not shown as data"
  jq -e '(map(.length) | add) == '$((24 * MIB)) "$WORK/map.json" || fail "the map is not whole"
}

image_in() {
  need qemu-img
  [ -e "$WORK/fs.qcow2" ] || skip "no mkfs.ext4 here"
  qemu-img info "$(uri image)"
  qemu-img convert -n -W -m 8 -f qcow2 -O raw "$WORK/fs.qcow2" "$(uri image)"
  qemu-img compare -f qcow2 -F raw "$WORK/fs.qcow2" "$(uri image)"
}

image_same() {
  need qemu-img
  [ -e "$WORK/fs.qcow2" ] || skip "no mkfs.ext4 here"
  qemu-img compare -f qcow2 -F raw "$WORK/fs.qcow2" "$(uri image)"
}

# qemu_io COMMAND...: qemu-io ends well even after some failures, so its words count too.
qemu_io() {
  local args=() c
  for c in "$@"; do args+=(-c "$c"); done
  qemu-io -f raw -d unmap "$(uri io)" "${args[@]}" | tee "$WORK/qemu-io.log"
  ! grep -qiE 'failed|error' "$WORK/qemu-io.log" || fail "qemu-io"
}

requests() {
  need qemu-io
  qemu_io 'read -P 0 0 1M' 'write -P 0xaa 0 1M' 'read -P 0xaa 0 1M'
  # Zeroes inside a written extent, then a discard across extents: both read as zeroes.
  qemu_io 'write -z 4k 8k' 'read -P 0xaa 0 4k' 'read -P 0 4k 8k' 'read -P 0xaa 12k 20k' \
    'discard 64k 192k' 'read -P 0 64k 192k' 'read -P 0xaa 256k 64k' 'write -z -u 512k 256k' 'read -P 0 512k 256k'
  # No alignment at all.
  qemu_io 'write -P 0x11 1048575 3' 'write -P 0x22 1050000 4097' 'read -P 0x11 1048575 3' 'read -P 0x22 1050000 4097' \
    'read -P 0xaa 1048000 575' 'read -P 0 1048578 1422' 'read -P 0 1054097 1000'
  # Forced unit access, and many at once; the last of overlapping ones in order stays.
  qemu_io 'write -f -P 0x33 2M 64k' 'aio_write -P 0x44 3M 64k' 'aio_write -P 0x45 3200k 64k' 'aio_flush' 'flush' \
    'read -P 0x33 2M 64k' 'read -P 0x44 3M 64k' 'read -P 0x45 3200k 64k'
  qemu_io 'write -P 0x55 4M 32k' 'write -P 0x56 4104k 4k' 'write -P 0x57 4100k 512' 'flush' \
    'read -P 0x55 4M 4k' 'read -P 0x57 4100k 512' 'read -P 0x55 4198912 3584' 'read -P 0x56 4104k 4k'
  # The very end.
  qemu_io 'write -P 0x66 33553920 512' 'read -P 0x66 33553920 512'
}

requests_same() {
  need qemu-io
  qemu_io 'read -P 0xaa 0 4k' 'read -P 0 4k 8k' 'read -P 0 64k 192k' 'read -P 0 512k 256k' 'read -P 0x11 1048575 3' \
    'read -P 0x22 1050000 4097' 'read -P 0x33 2M 64k' 'read -P 0x44 3M 64k' 'read -P 0x45 3200k 64k' \
    'read -P 0x57 4100k 512' 'read -P 0x56 4104k 4k' 'read -P 0x66 33553920 512'
}

# fio_nbd NAME ARGUMENT...: four connections, each on a quarter of its own.
fio_nbd() {
  need fio
  fio --enghelp=nbd >/dev/null 2>&1 || skip "this fio knows no NBD"
  local name=$1
  shift
  fio --name="$name" --ioengine=nbd --uri="$(uri load)" --numjobs=4 --size="$LOAD" --offset_increment="$LOAD" \
    --iodepth=16 --group_reporting --verify=crc32c --verify_fatal=1 --verify_state_save=0 --randrepeat=1 --thread "$@" </dev/null
}

load_mixed() { fio_nbd mixed --rw=randrw --bsrange=4k-128k --blockalign=4k --do_verify=1; }

# Written with no look back, flushed at the end; `load_same` looks later.
load_write() { fio_nbd later --rw=randwrite --bs=4k --do_verify=0 --end_fsync=1; }

load_same() { fio_nbd later --rw=randwrite --bs=4k --verify_only; }

# status has the volume, and says that nothing waits once all is flushed.
status() {
  need jq
  "$ESKER" status --json "$SHM/control.sock" >"$WORK/status.json"
  cat "$WORK/status.json"
  jq -e '.. | strings | select(. == "load")' "$WORK/status.json" >/dev/null || fail "load is not in the status"
}

# --- the journey on one store

journey() {
  local on=$1 part=$2
  format_pool
  new_volume copy 24M
  new_volume image 256M
  new_volume io 32M
  new_volume load 128M
  serve copy image io load
  LOAD=32M
  if [ "$part" = small ]; then LOAD=4M; fi
  run_case "$on: nbdinfo lists, sizes, maps" info
  run_case "$on: nbdcopy both ways" copy
  run_case "$on: the map after copying" map_after_copy
  run_case "$on: qemu-io writes, zeroes, discards, reads" requests
  run_case "$on: fio randrw with crc32c, 4 connections" load_mixed
  if [ "$part" = whole ]; then run_case "$on: qemu-img convert of a qcow2, compare" image_in; fi
  run_case "$on: fio writes, flushed" load_write
  run_case "$on: status" status
  stop_serve
  serve copy image io load
  run_case "$on: a restart later: what fio wrote" load_same
  run_case "$on: a restart later: what qemu-io wrote" requests_same
  if [ "$part" = whole ]; then run_case "$on: a restart later: the image" image_same; fi
  run_case "$on: fio writes again, flushed" load_write
  kill_serve
  serve copy image io load
  run_case "$on: after kill -9: what fio wrote" load_same
  run_case "$on: after kill -9: what qemu-io wrote" requests_same
  stop_serve
}

need_esker
make_inputs
stores=("$@")
if [ ${#stores[@]} = 0 ]; then stores=(s3d moto file); fi
for store in "${stores[@]}"; do
  case $store in
    s3d) start_s3d; journey s3d whole ;;
    moto) if start_moto; then journey moto small; else skipped "moto: not at $MOTO (scripts/setup installs it), or it does not start: $(tail -n 1 "$WORK/moto.err" 2>/dev/null)"; fi ;;
    file) start_file; journey file whole ;;
    *) say "unknown store: $store" >&2; exit 2 ;;
  esac
  stop_store
done
