#!/usr/bin/env bash
# stress-ng's filesystem class on ext4 over a device: one stressor after the other; and many of them at once on XFS, with the
# daemon killed under them. Then the filesystem is checked, before and after it has come back from the bucket.
#
# fsx and fsstress are in no package of Debian (neither xfstests nor LTP is): tests/lab/exercise.py does what fsx does, random
# operations on a file against a model of it, and stressors that make, rename, link and remove side by side are what
# fsstress is.
#
# SECONDS_EACH   seconds for each stressor, one after the other [1]
# KILLS          kills under the stressors that run at once [3]
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

SECONDS_EACH=${SECONDS_EACH:-1} KILLS=${KILLS:-3}

# Not about a filesystem on a disk: mounts and pseudo filesystems, descriptors, priorities.
ELSEWHERE=bind-mount,binderfs,procfs,eventfd,fanotify,ioprio,handle,dup
SMALL=(--hdd-bytes 16m --fallocate-bytes 16m --iomix-bytes 16m --sync-file-bytes 16m)

# begin_stress ARGUMENT...: stress-ng below $MNT, in the background; sets STRESS.
begin_stress() {
  mkdir -p "$MNT/stress"
  stress-ng --temp-path "$MNT/stress" --seed "$SEED" --verify --oomable "$@" >"$WORK/stress.out" 2>&1 </dev/null &
  STRESS=$!
}

# ends_fine: status 0, or 3 and 4 for stressors that this kernel has nothing for; and none of those found anything wrong.
ends_fine() {
  local status=0
  wait "$STRESS" || status=$?
  grep -vE 'dispatching|defaulting' "$WORK/stress.out" | tail -n 40
  case $status in 0 | 3 | 4) ;; *) fail "stress-ng ended with $status" ;; esac
  ! grep -E '^stress-ng: (fail|error):' "$WORK/stress.out" | grep -vE 'not implemented|ENOSYS|No space' || fail "stress-ng found something"
}

# same_after FS: unmounted, checked; detached, attached, checked.
same_after() {
  (cd "$MNT" && find . -type f -exec sha256sum {} + | sort) >"$WORK/sums"
  umount "$MNT"
  check_fs "$1" "$DEV"
  no_device_errors
  expect_exit 0 "$ESKER" detach disk
  attach disk
  check_fs "$1" "$DEV"
  mount_fs "$DEV" -o ro
  (cd "$MNT" && find . -type f -exec sha256sum {} + | sort) | cmp - "$WORK/sums" || fail "files have changed"
  umount "$MNT"
  expect_exit 0 "$ESKER" detach disk
}

one_by_one() {
  need stress-ng
  mine disk
  attach disk
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  cp -a "$WORK/tree" "$MNT/tree"
  begin_stress --class filesystem --exclude "$ELSEWHERE" --sequential 1 --timeout "$SECONDS_EACH" "${SMALL[@]}"
  ends_fine
  same_tree "$WORK/tree" "$MNT/tree"
  same_after ext4
}

all_at_once() {
  need stress-ng
  mine disk
  attach disk
  make_fs xfs "$DEV"
  mount_fs "$DEV"
  cp -a "$WORK/tree" "$MNT/tree"
  begin_stress --dentry 1 --dir 1 --dirmany 1 --rename 1 --link 1 --symlink 1 --touch 1 --xattr 1 --chmod 1 --utime 1 \
    --hdd 1 --hdd-opts fsync,wr-rnd --fallocate 1 --copy-file 1 --iomix 1 --timeout $((KILLS * 8 + 4)) "${SMALL[@]}"
  local i
  for ((i = 0; i < KILLS; i++)); do
    sleep "$(between 1000 4000)"
    ! is_gone "$STRESS" || fail "stress-ng has ended: $(tail -n 3 "$WORK/stress.out")"
    kill_daemon
    sleep "$(between 0 500)"
    recover disk
  done
  ends_fine
  same_tree "$WORK/tree" "$MNT/tree"
  same_after xfs
}

# As fsx does, on XFS; ext4 has its turn in filesystems.sh.
exerciser() {
  mine disk
  attach disk
  make_fs xfs "$DEV"
  mount_fs "$DEV"
  python3 "$ROOT/tests/lab/exercise.py" "$MNT/file" --seed "$SEED" --seconds 10
  umount "$MNT"
  check_fs xfs "$DEV"
  expect_exit 0 "$ESKER" detach disk
}

open_lab
new_volumes disk:1G
make_tree "$WORK/tree"
run_case "the filesystem class on ext4" one_by_one
run_case "many at once on XFS, killed $KILLS times" all_at_once
run_case "a file exerciser on XFS" exerciser
close_lab
