#!/usr/bin/env bash
# A real filesystem of the host's own kernel on a volume: nbdfuse makes the export a file, losetup makes the file a block
# device, and the kernel's ext4, XFS or btrfs lives on it. The server is killed with SIGKILL while it is mounted.
#
#   tests/filesystem.sh                  ext4, xfs and btrfs, on s3d and on file://
#   tests/filesystem.sh ext4 file        this filesystem, this store
#
# TREE   the directory whose files are copied in; default: this project and /usr/include
# Needs root, /dev/fuse and loop devices; skipped where they are missing. Environment: see tests/lib.sh.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

MNT=$WORK/mnt
LOOP=''       # the loop device that is attached
FUSE_PID=''   # the nbdfuse that runs
TREE=${TREE-}

# --- the way from the export to a mounted filesystem, and back

connect() {
  : >"$WORK/disk"
  nbdfuse "$WORK/disk" "$(uri disk)" >>"$WORK/nbdfuse.err" 2>&1 &
  FUSE_PID=$!
  wait_for 20 "nbdfuse" disk_is_there
  LOOP=$(losetup --find --show "$WORK/disk")
}

disk_is_there() {
  kill -0 "$FUSE_PID" 2>/dev/null || { fail "nbdfuse ended"; exit 1; }
  [ -s "$WORK/disk" ]
}

mount_fs() {
  mkdir -p "$MNT"
  mount -t "$1" "$LOOP" "$MNT"
}

# Whatever is left of a mount, with or without a living server. Never fails.
disconnect() {
  if mountpoint -q "$MNT"; then umount "$MNT" 2>>"$WORK/umount.log" || umount -l "$MNT" || true; fi
  if [ -n "$LOOP" ]; then
    losetup --detach "$LOOP" || true
    # The kernel lets go of a loop device a little later than losetup says.
    wait_for 20 "$LOOP to be free" loop_is_free || true
    LOOP=''
  fi
  if [ -n "$FUSE_PID" ]; then
    fusermount3 -u "$WORK/disk" 2>/dev/null || fusermount3 -uz "$WORK/disk" 2>/dev/null || true
    stop_pid "$FUSE_PID" TERM
    FUSE_PID=''
  fi
}

loop_is_free() { ! losetup "$LOOP" >/dev/null 2>&1; }

# --- steps

make_fs() {
  case $1 in
    ext4) mkfs.ext4 -q "$LOOP" ;;
    xfs) mkfs.xfs -q -f "$LOOP" ;;
    btrfs) mkfs.btrfs -q -f "$LOOP" ;;
  esac
}

# Read-only; the filesystem was unmounted cleanly before, so nothing excuses a complaint.
check_fs() {
  case $1 in
    ext4) fsck.ext4 -n -f "$LOOP" ;;
    xfs) xfs_repair -n "$LOOP" ;;
    btrfs) btrfs check --readonly --check-data-csum "$LOOP" ;;
  esac
}

# make_tree: what is copied in, once for all.
make_tree() {
  mkdir -p "$WORK/tree"
  if [ -n "$TREE" ]; then cp -a "$TREE" "$WORK/tree/"; return; fi
  (cd "$ROOT" && git ls-files -z 2>/dev/null | xargs -0r cp -a --parents -t "$WORK/tree") || cp -a "$ROOT/src" "$WORK/tree/"
  if [ -d /usr/include ]; then cp -a /usr/include "$WORK/tree/"; fi
}

same_tree() { diff -r --no-dereference "$WORK/tree" "$1" || fail "$1 is not what was copied"; }

# Kills the server under the mounted filesystem, gets rid of the mount, and comes back.
crash_and_return() {
  kill_serve
  disconnect
  serve disk
  connect
  mount_fs "$1"
}

journey() {
  local fs=$1 pid
  serve disk
  connect
  make_fs "$fs"
  mount_fs "$fs"

  say "copied, synced, killed"
  cp -a "$WORK/tree" "$MNT/one"
  sync -f "$MNT"
  crash_and_return "$fs"
  same_tree "$MNT/one"

  say "killed while files are copied and removed; what was synced before stays"
  cp -a "$WORK/tree" "$MNT/two"
  sync -f "$MNT"
  rm -r "$MNT/one"
  cp -a "$WORK/tree" "$MNT/three" 2>/dev/null &
  pid=$!
  sleep 0.7
  kill_serve
  kill "$pid" 2>/dev/null || true
  wait "$pid" || true
  crash_and_return "$fs"
  same_tree "$MNT/two"

  say "unmounted cleanly, checked"
  umount "$MNT"
  check_fs "$fs"

  say "trimmed; a clean restart of the server"
  mount_fs "$fs"
  rm -rf "$MNT/one" "$MNT/three"
  fstrim -v "$MNT"
  umount "$MNT"
  disconnect
  stop_serve
  serve disk
  connect
  check_fs "$fs"
  mount_fs "$fs"
  same_tree "$MNT/two"
  umount "$MNT"
  disconnect
  stop_serve
}

# One filesystem on one store, as one case: it has a subshell, so it cleans up there.
one() {
  trap 'disconnect; stop_pid "$SERVE_PID" KILL' EXIT
  local fs=$1
  need nbdfuse losetup fusermount3 "mkfs.$fs"
  grep -qw "$fs" /proc/filesystems || modprobe "$fs" 2>/dev/null || skip "this kernel has no $fs"
  format_pool
  new_volume disk 2G
  journey "$fs"
}

able() {
  [ "$(id -u)" = 0 ] || { say "not root"; return 1; }
  [ -c /dev/fuse ] || { say "no /dev/fuse"; return 1; }
  [ -c /dev/loop-control ] || { say "no loop devices"; return 1; }
}

need_esker
filesystems=() stores=()
for word in "$@"; do
  case $word in
    ext4 | xfs | btrfs) filesystems+=("$word") ;;
    s3d | file) stores+=("$word") ;;
    *) say "unknown: $word" >&2; exit 2 ;;
  esac
done
if [ ${#filesystems[@]} = 0 ]; then filesystems=(ext4 xfs btrfs); fi
if [ ${#stores[@]} = 0 ]; then stores=(s3d file); fi
if ! why=$(able); then skipped "everything: $why"; exit 0; fi
make_tree
say "the tree has $(find "$WORK/tree" -type f | wc -l) files, $(du -sh "$WORK/tree" | cut -f 1)"
for store in "${stores[@]}"; do
  for fs in "${filesystems[@]}"; do
    "start_$store"
    run_case "$fs on $store" one "$fs"
    stop_store
  done
done
