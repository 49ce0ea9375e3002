# shellcheck shell=bash
# Shared by the topics in tests/lab/: the store, devices and their daemons, loads. To be sourced, in a kernel with ublk.
#
# SEED     what random moments are drawn from; printed by each topic
# See tests/lib.sh for the rest.

# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

MNT=$WORK/mnt
SEED=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
STORE_ADDRESS='' ADMIN=''

# --- the store: a real S3 server on the loopback, which can be taken away and brought back

start_store() {
  [ -n "$STORE_ADDRESS" ] || { STORE_ADDRESS=127.0.0.1:$(free_port); ADMIN=127.0.0.1:$(free_port); }
  start_s3d --listen "$STORE_ADDRESS" --admin "$ADMIN"
  echo "$STORE_PID" >"$WORK/store.pid"
}

# In a case, which is a process of its own, so what it starts is known to all by the file.
store_away() {
  kill -s KILL "$(cat "$WORK/store.pid")"
  wait_for 10 "the store to be gone" store_is_away
}

store_is_away() { ! (: <"/dev/tcp/${STORE_ADDRESS%:*}/${STORE_ADDRESS#*:}") 2>/dev/null; }

# add_fault JSON: prints its number.
add_fault() { curl -fsS -X POST -d "$1" "http://$ADMIN/rules" | jq .id; }
no_faults() { curl -fsS -X DELETE "http://$ADMIN/rules" >/dev/null; }
# A request has run into the fault.
fault_was_hit() { curl -fsS "http://$ADMIN/rules" | jq -e 'any(.[]; .hits > 0)' >/dev/null; }

# --- devices
# A case that attaches begins with `mine VOLUME...`: whatever becomes of it, nothing of it is left behind.

DATA=(--journal-dir "$SHM/journal" --state-dir "$WORK/state" --journal-size 64M --cache-size 64M)

new_volumes() {
  local v
  for v in "$@"; do "$ESKER" volume create "$URL" "${v%%:*}" --size "${v#*:}" "${FLAGS[@]}" "${VOLUME_FLAGS[@]}" >>"$WORK/create.out"; done
}
VOLUME_FLAGS=()

mine() {
  LOG_LINES=$(dmesg | wc -l) # what the kernel had said before this case
  MINE=("$@")
  local v
  for v in "$@"; do : >"$WORK/$v.err"; done
  trap clean_up EXIT
}
MINE=()
# Of this case: others mean to see errors.
no_device_errors() { ! dmesg | tail -n +$((LOG_LINES + 1)) | grep -E "I/O error, dev ${DEV#/dev/}|Buffer I/O error on dev(ice)? ${DEV#/dev/}" || fail "the kernel saw errors"; }
AT_END=:  # what else a case has to take down, before its devices

clean_up() {
  local status=$? v
  set +e
  eval "$AT_END"
  no_faults 2>/dev/null
  store_is_away && start_store
  mountpoint -q "$MNT" && { timeout 30 umount "$MNT" || umount -l "$MNT"; }
  for v in "${MINE[@]}"; do
    in_list "$v" && timeout 60 "$ESKER" detach "$v" --force
    if [ $status != 0 ] && [ -s "$WORK/$v.err" ]; then say "--- the daemon of $v said"; tail -n 25 "$WORK/$v.err" | cut -c 1-400; fi
  done
  exit $status
}

# begin_daemon VOLUME [FLAG...]: a daemon in the foreground; does not wait until it is ready. Sets PID.
begin_daemon() {
  mkdir -p "$SHM/journal"
  : >"$WORK/$1.out"
  "$ESKER" attach "$URL" "$1" --foreground "${@:2}" "${DATA[@]}" "${FLAGS[@]}" >"$WORK/$1.out" 2>>"$WORK/$1.err" &
  PID=$!
}

# attach VOLUME [FLAG...]: the same, ready. Sets PID and DEV.
attach() {
  begin_daemon "$@"
  ready "$1"
}

ready() {
  wait_for "${READY_LIMIT:-60}" "the device of $1" is_ready "$1"
  DEV=$(head -n 1 "$WORK/$1.out")
  [ -b "$DEV" ] || fail "'$DEV' is no block device"
}

is_ready() {
  [ ! -s "$WORK/$1.out" ] || return 0
  kill -0 "$PID" 2>/dev/null || { fail "the daemon of $1 ended: $(tail -n 3 "$WORK/$1.err")"; exit 1; }
  return 1
}

recover() { attach "$1" --recover "${@:2}"; }

kill_daemon() {
  kill -s KILL "$PID" 2>/dev/null || true
  wait_for 30 "the end of process $PID, which was killed" is_gone "$PID" || { show_stuck; exit 1; }
  wait "$PID" 2>/dev/null || true
}

# Who waits in the kernel, and where.
show_stuck() {
  local task
  for task in /proc/[0-9]*/task/[0-9]*; do
    case $(awk '{ sub(/.*\) /, ""); print $1 }' "$task/stat" 2>/dev/null) in
      D | Z) printf '%s %s %s: %s\n' "$task" "$(awk '/^State/ { print $2 }' "$task/status")" "$(cat "$task/comm")" \
        "$(cut -c 5- "$task/stack" 2>/dev/null | head -n 12 | xargs)" ;;
    esac
  done
}

# ended PID LIMIT: waits for a daemon of ours, LIMIT seconds at most; sets CODE, its exit code.
ended() {
  CODE=0
  wait_for "$2" "the end of process $1" is_gone "$1" || return 1
  wait "$1" || CODE=$?
}

# ends_well PID LIMIT
ends_well() {
  ended "$1" "$2"
  [ $CODE = 0 ] || fail "the daemon's exit code is $CODE"
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }

detach() { timeout 90 "$ESKER" detach "$@"; }

list_json() { timeout 20 "$ESKER" list --json; }

# in_list VOLUME: whatever the shape of the list, the volume's name stands in it as a value.
in_list() { list_json | jq -e --arg v "$1" 'any(.. | strings; . == $v)' >/dev/null; }

# state_of VOLUME
state_of() { list_json | jq -r --arg v "$1" 'first(.. | objects | select(.volume? == $v)) | .state'; }

number_of() { say "${1#/dev/ublkb}"; }

# What the kernel has, whoever made it.
ublk_devices() { ls /sys/class/ublk-char 2>/dev/null || true; }

# expect_exit CODE COMMAND...: also not killed by a limit of ours.
expect_exit() {
  local want=$1 code=0
  shift
  timeout 90 "$@" >"$WORK/expect.out" 2>&1 || code=$?
  sed 's/^/  /' "$WORK/expect.out"
  [ $code = "$want" ] || fail "exit code $code, not $want: $*"
}

# said TEXT: the command of the last expect_exit said it.
said() { grep -qiE -- "$1" "$WORK/expect.out" || fail "it does not say '$1': $(cat "$WORK/expect.out")"; }

# No process waits in the kernel without end; some may do so for a moment.
nobody_hangs() {
  local i stuck=''
  for i in {1..20}; do
    stuck=$(ps -eo stat=,pid=,comm= | awk '$1 ~ /^D/')
    [ -n "$stuck" ] || return 0
    sleep 0.25
  done
  show_stuck
  fail "in the kernel for 5 s: $stuck"
}

# --- random moments

# between A B: milliseconds, drawn; as seconds for sleep.
between() {
  local ms=$(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1)))
  printf '%d.%03d\n' $((ms / 1000)) $((ms % 1000))
}

# --- loads

# wrong_data WHAT: what was read is not what was written. A second boot does not undo that.
wrong_data() { fail "DATA: $*"; }

# fio_verify FILE SIZE ARGUMENT...: writes in random order, reads all of it back, checks every block.
fio_verify() {
  fio --name=verify --filename="$1" --size="$2" --ioengine=libaio --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
    --group_reporting --output-format=terse "${@:3}" </dev/null >"$WORK/fio.out" 2>&1 || { cat "$WORK/fio.out"; wrong_data "fio"; }
  ! grep -qiE 'verify: bad|error=' "$WORK/fio.out" || { cat "$WORK/fio.out"; wrong_data "fio"; }
}

# make_tree DIR: what is copied about: the sources.
make_tree() {
  mkdir -p "$1"
  cp -a "$ROOT/src" "$ROOT/docs" "$ROOT/testkit" "$1/"
  rm -rf "$1/testkit/target"
}

same_tree() { diff -r --no-dereference "$1" "$2" || wrong_data "$2 is not what was copied"; }

# check_fs KIND DEVICE: nothing to complain about, nothing to repair.
check_fs() {
  case $1 in
    ext4) fsck.ext4 -n -f "$2" ;;
    xfs) xfs_repair -n "$2" ;;
  esac >"$WORK/fsck.out" 2>&1 || { cat "$WORK/fsck.out"; wrong_data "the $1 on $2 is damaged"; }
}

make_fs() {
  case $1 in
    ext4) mkfs.ext4 -q -F "$2" ;;
    xfs) mkfs.xfs -q -f "$2" ;;
  esac
}

mount_fs() {
  mkdir -p "$MNT"
  mount "$@" "$MNT"
}

# --- the beginning of each topic

open_lab() {
  need_esker
  [ -c /dev/ublk-control ] || { skipped "everything: this kernel has no ublk"; exit 0; }
  BEFORE=$(ublk_devices)
  say "$(basename "$0"): Linux $(uname -r), $(nproc) CPUs, SEED=$SEED"
  defer 'kill -s TERM "$(cat "$WORK/store.pid")"'
  start_store
  quick_pool
}

# A pool whose password is cheap to check: the record that pins the format is one. With that of `esker format` each attach
# takes 64 MiB of memory for the password, which is nothing, but 3 s in User-Mode Linux, where page faults are dear.
quick_pool() {
  export ESKER_PASSWORD=golden
  mkdir -p "$WORK/s3/esker/pool-1/pool"
  cp "$ROOT/src/pool/golden/pool-record.bin" "$WORK/s3/esker/pool-1/pool/fffffffffffffff6"
  "$ESKER" volume list "$URL" "${FLAGS[@]}" >/dev/null || { say "the golden pool does not open"; exit 1; }
}

# The last case of each topic.
close_lab() { run_case "nothing is left behind" nothing_left; }

nothing_left() {
  say "$("$ESKER" list)"
  [ "$(list_json | jq '[.. | objects | select(has("volume"))] | length')" = 0 ] || fail "the list is not empty"
  [ "$(ublk_devices)" = "$BEFORE" ] || fail "devices before: $BEFORE; now: $(ublk_devices)"
  nobody_hangs
}
