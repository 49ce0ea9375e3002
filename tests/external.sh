#!/usr/bin/env bash
# Suites and tools of other projects against a server on a real S3 server: qemu-iotests, libnbd's own tests, fio with its
# record of what was written, nbdkit's filters that err and delay. What applies of each, and what not, is said in
# tests/external/*.sh.
#
#   tests/external.sh            all
#   CASES=fio tests/external.sh  those whose names match
#
# SOAK=1   longer: more kills, more and larger loads
# SEED     where random moments are drawn from; it is printed
# The sources of qemu and libnbd come from Debian's archive, checked with its keys, and stay in ~/.cache/esker/external.
# Other environment: see tests/lib.sh.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

SEED=${SEED:-$RANDOM}
EXTERNAL=$ROOT/tests/external
# shellcheck source=tests/external/sources.sh
. "$EXTERNAL/sources.sh"
# shellcheck source=tests/external/fio.sh
. "$EXTERNAL/fio.sh"
# shellcheck source=tests/external/nbdkit.sh
. "$EXTERNAL/nbdkit.sh"
# shellcheck source=tests/external/libnbd.sh
. "$EXTERNAL/libnbd.sh"
# shellcheck source=tests/external/iotests.sh
. "$EXTERNAL/iotests.sh"

# A pool whose password is cheap to check: the record that pins the format is one. Dozens of servers are started here.
quick_pool() {
  export ESKER_PASSWORD=golden
  mkdir -p "$WORK/s3/esker/pool-1/pool"
  cp "$ROOT/src/pool/golden/pool-record.bin" "$WORK/s3/esker/pool-1/pool/fffffffffffffff6"
}

need_esker
say "seed $SEED"
start_s3d --delay lognormal:1ms,1.5
quick_pool
fio_cases
nbdkit_cases
libnbd_cases
iotests_cases
