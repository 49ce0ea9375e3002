#!/usr/bin/env bash
# Space comes back under real filesystems: files are written, deleted and trimmed away, and the bucket, by the store's own
# listing, shrinks to 1.3 times what is live; what was kept is as it was. A device of 16 TiB is discarded as a whole, empty and
# with data all over it: quickly, with a handful of requests, without memory, and for good.
#
# SPACE_GIB   GiB that are written through ext4 [1]
# STORE_DIR   where the store keeps its objects: outside of this machine's memory
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

SPACE_GIB=${SPACE_GIB:-1}
# Until the bucket has shrunk: quiet for 10 s, a checkpoint, 5 s until the log's own segments go, and what is rewritten.
PATIENCE=$((120 + 60 * SPACE_GIB))
# Pieces of 64 KiB all over the large device, each in a leaf of the map of its own.
PIECES=4096

# --- figures, shown when a case is over

figure() { say "        $*" | tee -a "$WORK/figures"; }
show_figures() { if [ -s "$WORK/figures" ]; then cat "$WORK/figures"; fi; : >"$WORK/figures"; }
mib() { awk -v b="$1" 'BEGIN { printf "%.1f MiB", b / 1048576 }'; }

# What the store lists of the volume that is attached.
listing() {
  local number
  number=$(jq -r .number "/run/esker/devices/${DEV#/dev/}.json")
  find "$WORK/s3/esker/" -type f -path "*/$(printf %08x "$number")/*" -printf '%s\n'
}
bucket() { listing | awk '{ all += $1 } END { printf "%.0f\n", all }'; }
objects() { listing | wc -l; }

# of_df FIELD: of the volume that is attached.
of_df() { "$ESKER" df --json | jq --arg v "${MINE[0]}" --arg f "$1" '[.[] | select(.volume == $v)][0][$f]'; }

# Of the daemon to the store so far.
requests() { "$ESKER" status --json | jq --argjson pid "$PID" '[.[] | select(.pid == $pid) | .store.requests[].count] | add'; }

rss() { awk -v f="$1:" '$1 == f { printf "%.0f\n", $2 * 1024 }' "/proc/$PID/status"; }

# --- files written, deleted, trimmed

# The same bytes each time, which nobody compresses.
stream() { openssl enc -aes-128-ctr -nosalt -pass pass:space -pbkdf2 -iter 1 -in /dev/zero 2>/dev/null | head -c "$1M" || true; }

sums() { (cd "$MNT" && find . -type f -exec sha256sum {} + | sort); }

# shrunk KEPT: what is live is what was kept, with some room for the filesystem's own, and the bucket holds 1.3 times that.
# Not by `df` alone: its figures are those of the newest checkpoint, and before that says so nothing has been deleted.
shrunk() {
  local live stored
  sleep 1
  live=$(of_df live) stored=$(bucket)
  [ "$live" != null ] && [ "$live" -le $(($1 + $1 / 10 + (16 << 20))) ] && [ $((stored * 10)) -le $((live * 13)) ]
}

# comes_back KEPT
comes_back() {
  local begin=$SECONDS
  if ! wait_for $PATIENCE "the bucket to shrink" shrunk "$1"; then
    "$ESKER" df
    "$ESKER" status
    fail "the bucket has $(mib "$(bucket)"), live are $(mib "$(of_df live)")"
  fi
  figure "$((SECONDS - begin)) s later: $(space)"
}

space() {
  local stored live
  stored=$(bucket) live=$(of_df live)
  say "the bucket lists $(mib "$stored") in $(objects) objects, live $(mib "$live")" \
    "($(awk -v s="$stored" -v l="$live" 'BEGIN { printf "%.2f", l ? s / l : 0 }')), garbage $(mib "$(of_df garbage)"), dead $(mib "$(of_df dead)")"
}

# slack MIB: as much of what is written as the default is of 4 GiB.
slack() { say "$(($1 * 8))K"; }

# fill MIB: files of 1 MiB; those that are to stay lie between those that go.
fill() {
  stream "$1" | split -b 1M -a 4 -d - "$MNT/file"
  sync -f "$MNT"
  [ "$(find "$MNT" -name 'file*' | wc -l)" = "$1" ] || fail "the files are not there"
}

# delete_most: seven of ten.
delete_most() {
  find "$MNT" -name 'file*' ! -name '*[037]' -delete
  sync -f "$MNT"
}

# trim: in parts that are smaller than an allocation group. Where XFS is asked for a whole group, it goes by the length of free
# extents, a hundred at a time, and was seen to leave out a third of those of like length.
trim() {
  local at size part=$((64 << 20))
  size=$(blockdev --getsize64 "$DEV")
  for ((at = 0; at < size; at += part)); do fstrim -o $at -l $part "$MNT"; done
  sync "$DEV"
}

# trims_nothing_again: all of it once more, to a device that has it already.
trims_nothing_again() {
  local before stored after
  stored=$(bucket) before=$(requests)
  trim
  after=$(requests)
  figure "trimmed again: $((after - before)) requests, the bucket went from $(mib "$stored") to $(mib "$(bucket)")"
  [ $((after - before)) -le 20 ] || fail "$((after - before)) requests for a trim of nothing"
}

# gives_back FS MIB
gives_back() {
  local fs=$1 size=$2 kept
  mine "$fs"
  attach "$fs" --compact-slack "$(slack "$size")"
  make_fs "$fs" "$DEV"
  mount_fs "$DEV"
  fill "$size"
  figure "$size MiB written: $(space)"
  delete_most
  sums >"$WORK/sums"
  # XFS frees what was deleted some time later, but before it is unmounted.
  umount "$MNT"
  mount_fs "$DEV"
  kept=$(($(wc -l <"$WORK/sums") << 20))
  figure "kept are $(mib "$kept")"
  trim
  comes_back "$kept"
  # A filesystem that was just mounted does not remember what it trimmed.
  umount "$MNT"
  mount_fs "$DEV"
  trims_nothing_again
  umount "$MNT"
  check_fs "$fs" "$DEV"
  no_device_errors
  expect_exit 0 "$ESKER" detach "$fs"
  is_kept "$fs" "$fs"
}

# is_kept FS VOLUME: from the bucket alone.
is_kept() {
  attach "$2"
  check_fs "$1" "$DEV"
  mount_fs "$DEV" -o ro
  sums | cmp - "$WORK/sums" || fail "files have changed"
  umount "$MNT"
  expect_exit 0 "$ESKER" detach "$2"
}

# Somebody writes a little all the time: the bucket shrinks all the same.
under_a_trickle() {
  local kept trickle
  mine trickle
  attach trickle --compact-slack "$(slack 128)"
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  fill 128
  (while sleep 1; do date >>"$MNT/log"; sync -f "$MNT"; done) &
  trickle=$!
  AT_END="stop_pid $trickle TERM"
  delete_most
  kept=$(($(find "$MNT" -name 'file*' | wc -l) << 20))
  trim
  comes_back "$kept"
  stop_pid $trickle TERM
  umount "$MNT"
  expect_exit 0 "$ESKER" detach trickle
}

pool_of_zfs() {
  has zpool || skip "no zpool here"
  mine zfs
  attach zfs --compact-slack "$(slack 256)"
  AT_END='zpool destroy -f tank 2>/dev/null'
  zpool create -O mountpoint="$MNT" -o ashift=12 -o autotrim=on tank "$DEV"
  stream 256 | split -b 1M -a 4 -d - "$MNT/file"
  zpool sync tank
  figure "256 MiB written: $(space)"
  find "$MNT" -name 'file*' ! -name '*[037]' -delete
  sums >"$WORK/sums"
  # Freed blocks may be used again only some transactions later, and are trimmed then.
  local i
  for i in 1 2 3 4; do zpool sync tank; done
  zpool trim -w tank
  comes_back $(($(wc -l <"$WORK/sums") << 20))
  zpool export tank
  expect_exit 0 "$ESKER" detach zfs
  attach zfs
  zpool import -d "$DEV" tank
  zpool scrub -w tank
  sums | cmp - "$WORK/sums" || fail "files have changed"
  zpool status -p tank | grep 'errors: No known data errors' || fail "data errors"
  zpool destroy tank
  expect_exit 0 "$ESKER" detach zfs
}

# --- all of 16 TiB

# spread write|zero: pieces of 64 KiB all over the device; or whether they read as zeroes.
spread() {
  python3 - "$1" "$DEV" $PIECES <<'PYTHON'
import os, sys
what, path, pieces = sys.argv[1], sys.argv[2], int(sys.argv[3])
device = os.open(path, os.O_RDWR)
size, length = os.lseek(device, 0, os.SEEK_END), 64 << 10
for i in range(pieces):
    at = i * (size // pieces) + i % 16 * (1 << 20)
    if what == "write":
        assert os.pwrite(device, os.urandom(length), at) == length
    elif os.pread(device, length, at).strip(b"\0"):
        sys.exit(f"what was discarded at {at} is there again")
os.fsync(device)
PYTHON
  echo 3 >/proc/sys/vm/drop_caches
}

# measured WHAT MOST-REQUESTS COMMAND...: takes few requests, 10 s at most, and no memory to speak of.
measured() {
  local what=$1 most=$2 began before rss asked took grown
  shift 2
  echo 5 >"/proc/$PID/clear_refs" 2>/dev/null || true
  before=$(requests) rss=$(rss VmRSS) began=$(date +%s%N)
  "$@" >"$WORK/measured.out" 2>&1 || { cat "$WORK/measured.out"; fail "$*"; }
  took=$((($(date +%s%N) - began) / 1000000)) asked=$(($(requests) - before)) grown=$(($(rss VmHWM) - rss))
  figure "$what: $took ms, $asked requests, the daemon had $(mib "$rss") and at most $(mib "$grown") more"
  [ $took -le 10000 ] || fail "$what takes $took ms"
  [ $asked -le "$most" ] || fail "$what makes $asked requests"
  [ $grown -le $((64 << 20)) ] || fail "$what takes $(mib $grown) of memory"
}

# All of it, and a flush.
discard() {
  blkdiscard -f "$DEV"
  sync "$DEV"
}

# mkfs_pair FS: how much of it is the discard.
mkfs_pair() {
  case $1 in
    ext4)
      timed "mkfs.ext4 without discard" mkfs.ext4 -q -F -E nodiscard "$DEV"
      timed "mkfs.ext4" mkfs.ext4 -q -F "$DEV" ;;
    xfs)
      timed "mkfs.xfs without discard" mkfs.xfs -q -f -K "$DEV"
      timed "mkfs.xfs" mkfs.xfs -q -f "$DEV" ;;
  esac
}

# timed WHAT COMMAND...: figures, without limits but one: what a filesystem writes is its own affair.
timed() {
  local what=$1 began before rss
  shift
  echo 5 >"/proc/$PID/clear_refs" 2>/dev/null || true
  before=$(requests) rss=$(rss VmRSS) began=$(date +%s%N)
  timeout 120 "$@" >"$WORK/timed.out" 2>&1 || { cat "$WORK/timed.out"; fail "$*"; }
  sync "$DEV"
  figure "$what: $((($(date +%s%N) - began) / 1000000)) ms, $(($(requests) - before)) requests," \
    "at most $(mib $(($(rss VmHWM) - rss))) more memory"
}

on_an_empty_one() {
  mine huge
  attach huge
  figure "requests of at most $(mib "$(cat "/sys/block/${DEV#/dev/}/queue/discard_max_bytes")")"
  measured "blkdiscard of 16 TiB, empty" 20 discard
  mkfs_pair ext4
  measured "blkdiscard of 16 TiB, with an ext4" 20 discard
  mkfs_pair xfs
  measured "blkdiscard of 16 TiB, with an XFS" 20 discard
  ! blkid -p "$DEV" || fail "there is something left after all of it was discarded"
  expect_exit 0 "$ESKER" detach huge
}

gone_from_the_bucket() { sleep 1; [ "$(of_df live)" -le $((1 << 20)) ] && [ "$(bucket)" -le $((16 << 20)) ]; }

# empties: what was discarded leaves the bucket, by reading the map that is dropped.
empties() {
  local begin=$SECONDS before
  before=$(requests)
  wait_for $PATIENCE "the bucket to be empty" gone_from_the_bucket || { "$ESKER" df; "$ESKER" status; exit 1; }
  figure "$((SECONDS - begin)) s later, after $(($(requests) - before)) requests: $(space)"
}

# filled VOLUME: with a map that is in the store, not in memory.
filled() {
  mine "$1"
  attach "$1"
  spread write
  expect_exit 0 "$ESKER" detach "$1"
  attach "$1"
  figure "$PIECES pieces spread over 16 TiB: $(space)"
}

on_a_full_one() {
  filled full
  measured "blkdiscard of 16 TiB, with data all over it" 20 discard
  spread zero
  expect_exit 0 "$ESKER" detach full
  # Killed while it reads the map that was dropped, checkpoints and deletes.
  attach full
  local i
  for i in 1 2 3; do
    sleep "$(between 300 6000)"
    kill_daemon
    recover full
  done
  empties
  spread zero
  expect_exit 0 "$ESKER" detach full
}

mkfs_on_a_full_one() {
  filled full
  mkfs_pair xfs
  spread write
  mkfs_pair ext4
  discard
  spread zero
  expect_exit 0 "$ESKER" detach full
}

# What a flush has covered needs neither a daemon nor a journal.
for_good() {
  filled crashed
  discard
  kill_daemon
  recover crashed
  spread zero
  kill_daemon
  expect_exit 0 "$ESKER" detach crashed --force
  rm -f "$SHM"/journal/*
  attach crashed --takeover --lose-journal
  spread zero
  empties
  spread zero
  expect_exit 0 "$ESKER" detach crashed
}

[ -z "${STORE_DIR-}" ] || ln -s "$STORE_DIR" "$WORK/s3"
open_lab
new_volumes ext4:$((SPACE_GIB + SPACE_GIB / 2 + 1))G xfs:512M trickle:512M zfs:1G huge:16T full:16T crashed:16T
run_case "16 TiB, empty: discarded, with an ext4 and an XFS" on_an_empty_one; show_figures
run_case "16 TiB with data all over it: discarded, the daemon killed" on_a_full_one; show_figures
run_case "16 TiB with data all over it: an XFS and an ext4 made" mkfs_on_a_full_one; show_figures
run_case "16 TiB discarded, the journal lost" for_good; show_figures
run_case "ext4: $SPACE_GIB GiB written, most deleted and trimmed" gives_back ext4 $((SPACE_GIB << 10)); show_figures
run_case "XFS: 256 MiB written, most deleted and trimmed" gives_back xfs 256; show_figures
run_case "ZFS: 256 MiB written, most deleted and trimmed" pool_of_zfs; show_figures
run_case "a filesystem that is never quiet" under_a_trickle; show_figures
close_lab
