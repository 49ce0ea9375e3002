# shellcheck shell=bash
# qemu-iotests, raw over NBD: the suite's own runner and expected outputs, with a stand-in for qemu-nbd that serves a new
# volume. To be sourced.
#
# Applied: all that write, read, zero, discard and map by qemu-io and qemu-img through a server that the suite starts.
# Not applied, of those that the suite runs as `-raw -nbd`:
#   083 123 259      bring a server of their own: they try the client
#   005              wants files of 5 TB in the directory where it works
#   104 241          sizes that are no multiple of a block, which a volume cannot have; qemu-nbd's own options
#   094 119 143 145 181   need a QEMU with `-accel qtest`, which Debian's packages leave out; 143 tries QEMU's own server

IOTESTS=(001 002 003 004 008 009 010 011 021 032 033 077 197 215)

iotests() {
  need qemu-img qemu-io qemu-system-x86_64 qemu-storage-daemon python3
  debian_source qemu tests/qemu-iotests python scripts
  local common=$SOURCE/tests/qemu-iotests/common.rc status=0
  # It sleeps for a second and hopes that the server is there; on busy cores it is not.
  sed -i "s/^\( *\)sleep 1 # [A-Z]*: qemu-nbd needs.*/\1for _ in {1..300}; do [ -S \"\$SOCK_DIR\/nbd\" ] \&\& break; sleep 0.1; done/" "$common"
  grep -q 'break; sleep 0.1; done' "$common" || skip "this version of the suite starts its server in another way"
  # Its paths must have no dot in them, which ours has.
  export ESKER URL IOTESTS_DIR=/dev/shm/esker-iotests-$$
  trap 'rm -rf "$IOTESTS_DIR"' EXIT
  mkdir -p "$IOTESTS_DIR/sock" "$IOTESTS_DIR/journal"
  export TEST_DIR=$IOTESTS_DIR/scratch SOCK_DIR=$IOTESTS_DIR/sock
  export QEMU_PROG QEMU_IMG_PROG QEMU_IO_PROG QSD_PROG QEMU_NBD_PROG=$EXTERNAL/qemu-nbd
  QEMU_PROG=$(command -v qemu-system-x86_64) QEMU_IMG_PROG=$(command -v qemu-img) QEMU_IO_PROG=$(command -v qemu-io)
  QSD_PROG=$(command -v qemu-storage-daemon)
  (cd "$SOURCE/tests/qemu-iotests" && ./check -raw -nbd "${IOTESTS[@]}") >"$WORK/iotests.out" 2>&1 </dev/null || status=$?
  cat "$WORK/iotests.out"
  [ $status = 0 ] || fail "the suite ends with $status"
  grep -qE "^Passed all ${#IOTESTS[@]} iotests" "$WORK/iotests.out" || fail "not all were run"
  [ "$(wc -l <"$IOTESTS_DIR/served")" -ge ${#IOTESTS[@]} ] || fail "not all went through our server"
}

iotests_cases() { run_case "qemu-iotests: raw over NBD" iotests; }
