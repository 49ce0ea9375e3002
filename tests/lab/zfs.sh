#!/usr/bin/env bash
# A ZFS pool on a device: a tree, a snapshot, kill -9 and recovery under it, export, import, scrub: no errors.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

no_errors() {
  zpool status -p tank >"$WORK/status"
  cat "$WORK/status"
  grep -q 'errors: No known data errors' "$WORK/status" || fail "data errors"
  awk '$1 ~ /^(tank|ublkb)/ && ($3 + $4 + $5) > 0 { bad = 1 } END { exit bad }' "$WORK/status" || fail "errors were counted"
  grep -q 'state: ONLINE' "$WORK/status" || fail "the pool is not online"
}

# Mounted by hand: below .zfs the kernel would call for a program that is in the guest's root only.
snapshot_is_whole() {
  mkdir -p "$WORK/view"
  mount -t zfs -o ro tank@first "$WORK/view"
  same_tree "$WORK/tree" "$WORK/view/first"
  umount "$WORK/view"
}

journey() {
  mine disk
  attach disk
  AT_END='zpool destroy -f tank 2>/dev/null'
  local i copy
  zpool create -O mountpoint="$MNT" -O compression=lz4 -o ashift=12 -o autotrim=on tank "$DEV"
  cp -a "$WORK/tree" "$MNT/first"
  zfs snapshot tank@first
  rm -rf "$MNT/first/docs"
  for i in 1 2 3; do
    cp -a "$WORK/tree" "$MNT/copy$i" &
    copy=$!
    sleep "$(between 100 900)"
    kill_daemon
    sleep 0.3
    recover disk
    wait $copy || fail "the copy met an error"
    zpool sync tank
  done
  no_errors
  zpool export tank
  zpool import -d "$DEV" tank
  for i in 1 2 3; do same_tree "$WORK/tree" "$MNT/copy$i"; done
  snapshot_is_whole
  zpool trim -w tank
  zpool scrub -w tank
  no_errors
  zpool export tank
  expect_exit 0 "$ESKER" detach disk
  # From the bucket alone.
  attach disk
  zpool import -d "$DEV" tank
  snapshot_is_whole
  zpool scrub -w tank
  no_errors
  zpool destroy tank
  expect_exit 0 "$ESKER" detach disk
}

has zpool || { skipped "everything: no zpool here"; exit 0; }
open_lab
new_volumes disk:1G
make_tree "$WORK/tree"
run_case "a pool on a device, $(zpool version | tail -n 1)" journey
close_lab
