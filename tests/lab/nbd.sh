#!/usr/bin/env bash
# `esker attach --nbd`: a block device where the kernel has no ublk, by its NBD client.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

journey() {
  mine disk
  attach disk --nbd
  case $DEV in /dev/nbd*) ;; *) fail "the device is $DEV" ;; esac
  lsblk -t "$DEV"
  fio_verify "$DEV" 16M --rw=randrw --bsrange=4k-128k --blockalign=4k --direct=1 --iodepth=32 --fsync=16
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  cp -a "$WORK/tree" "$MNT/tree"
  fstrim -v "$MNT"
  expect_exit 5 "$ESKER" detach disk
  umount "$MNT"
  check_fs ext4 "$DEV"
  expect_exit 0 "$ESKER" detach disk
  wait_for 10 "$DEV to be free" is_free "$DEV"
  attach disk --nbd
  mount_fs "$DEV" -o ro
  same_tree "$WORK/tree" "$MNT/tree"
  umount "$MNT"
  kill -s TERM "$PID"
  ends_well "$PID" 60
  wait_for 10 "$DEV to be free" is_free "$DEV"
}

is_free() { [ "$(cat "/sys/block/${1#/dev/}/size")" = 0 ]; }

[ -e /sys/block/nbd0 ] || { skipped "everything: this kernel has no NBD"; exit 0; }
open_lab
new_volumes disk:512M
make_tree "$WORK/tree"
run_case "ext4 and fio on the kernel's NBD" journey
close_lab
