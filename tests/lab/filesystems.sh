#!/usr/bin/env bash
# ext4 and XFS on a device, trimmed and discarded, mixes of requests that fio checks, a partitioned disk.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

journey() {
  local fs=$1
  mine disk
  attach disk
  make_fs "$fs" "$DEV"
  mount_fs "$DEV"
  cp -a "$WORK/tree" "$MNT/one"
  cp -a "$WORK/tree" "$MNT/two"
  umount "$MNT"
  check_fs "$fs" "$DEV"
  mount_fs "$DEV"
  same_tree "$WORK/tree" "$MNT/one"
  rm -r "$MNT/one"
  sync -f "$MNT"
  fstrim -v "$MNT"
  same_tree "$WORK/tree" "$MNT/two"
  umount "$MNT"
  check_fs "$fs" "$DEV"
  expect_exit 0 "$ESKER" detach disk
  # All of it from the bucket, by another daemon.
  attach disk
  check_fs "$fs" "$DEV"
  mount_fs "$DEV" -o ro
  same_tree "$WORK/tree" "$MNT/two"
  # Not from under a mounted filesystem.
  expect_exit 5 "$ESKER" detach disk
  said "$MNT"
  umount "$MNT"
  blkdiscard -f "$DEV"
  ! blkid -p "$DEV" || fail "there is something left after all of it was discarded"
  expect_exit 0 "$ESKER" detach disk
}

# mix NAME ARGUMENT...
mix() {
  fio_verify "$DEV" 32M --bsrange=4k-1m --blockalign=4k --iodepth=16 --randrepeat=0 --randseed="$SEED" "$@"
}

mixes() {
  mine disk
  attach disk
  mix --rw=randwrite --direct=1
  mix --rw=randrw --direct=1 --fsync=8
  # Forced unit access: O_SYNC on a block device that has it.
  fio_verify "$DEV" 4M --rw=randwrite --bs=4k --direct=1 --iodepth=8 --sync=dsync
  mix --rw=write --direct=0 --fdatasync=16
  mix --rw=randrw --direct=0 --fsync=32 --end_fsync=1
  fio_verify "$DEV" 2M --rw=randwrite --bs=512 --direct=1 --iodepth=16
  expect_exit 0 "$ESKER" detach disk
}

# Random operations on a file, compared with a model of it.
exerciser() {
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  python3 "$ROOT/tests/lab/exercise.py" "$MNT/file" --seed "$SEED" --seconds 20
  umount "$MNT"
  check_fs ext4 "$DEV"
  expect_exit 0 "$ESKER" detach disk
}

partitions() {
  need sfdisk
  mine disk
  attach disk
  echo mq-deadline >"/sys/block/${DEV#/dev/}/queue/scheduler"
  printf 'label: gpt\nsize=192M\nsize=400M\n' | sfdisk -q "$DEV"
  wait_for 10 "the partitions" test -b "${DEV}p2"
  make_fs ext4 "${DEV}p1"
  make_fs xfs "${DEV}p2"
  local p
  for p in p1 p2; do
    mount_fs "$DEV$p"
    cp -a "$WORK/tree" "$MNT/tree"
    # In use, by a partition of it.
    expect_exit 5 "$ESKER" detach disk
    umount "$MNT"
  done
  expect_exit 0 "$ESKER" detach disk
  # The kernel finds the partitions by itself.
  attach disk
  wait_for 10 "the partitions" test -b "${DEV}p2"
  check_fs ext4 "${DEV}p1"
  check_fs xfs "${DEV}p2"
  for p in p1 p2; do
    mount_fs "$DEV$p" -o ro
    same_tree "$WORK/tree" "$MNT/tree"
    umount "$MNT"
  done
  sfdisk -d "$DEV"
  blkdiscard -f "$DEV"
  expect_exit 0 "$ESKER" detach disk
}

open_lab
VOLUME_FLAGS=(--block-size 512)
new_volumes disk:1G
make_tree "$WORK/tree"
say "the tree has $(find "$WORK/tree" -type f | wc -l) files, $(du -sh "$WORK/tree" | cut -f 1)"
run_case "ext4" journey ext4
run_case "XFS" journey xfs
run_case "mixes of requests, checked" mixes
run_case "a file exerciser on ext4" exerciser
run_case "a partitioned disk, mq-deadline" partitions
close_lab
