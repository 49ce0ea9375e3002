# shellcheck shell=bash
# nbdkit in front of the server, with its filters that delay, err and try again: what the server sees are requests that
# come late, connections that end with requests under way, and the same requests once more. To be sourced.

NBDKIT_PID=''

# nbdkit_before VOLUME FILTER...: nbdkit in front of the volume; sets FILTERED, where it is to be reached.
nbdkit_before() {
  local volume=$1 filters=() words=()
  shift
  while [ $# -gt 0 ]; do case $1 in *=*) words+=("$1") ;; *) filters+=("--filter=$1") ;; esac; shift; done
  rm -f "$SHM/nbdkit.sock"
  nbdkit -f -U "$SHM/nbdkit.sock" "${filters[@]}" nbd "uri=$(uri "$volume")" "${words[@]}" 2>>"$WORK/nbdkit.err" &
  NBDKIT_PID=$!
  wait_for 20 "nbdkit" test -S "$SHM/nbdkit.sock"
  FILTERED="nbd+unix:///?socket=$SHM/nbdkit.sock"
}

end_nbdkit() {
  stop_pid "$NBDKIT_PID" "$1"
  NBDKIT_PID=''
}

has_filters() {
  need nbdkit fio nbdcopy cmp
  local f
  for f in "$@"; do nbdkit --filter="$f" null --dump-plugin >/dev/null 2>&1 || skip "this nbdkit has no filter $f"; done
  trap 'stop_pid "$NBDKIT_PID" KILL; stop_pid "$SERVE_PID" KILL' EXIT
}

# verified_through JOB ARGUMENT...: fio writes and checks through the filters.
verified_through() {
  fio_job "$1" "$FILTERED"
  run_fio "$WORK/fio-$1.job" --do_verify=1 --verify_state_save=0 --bsrange=4k-64k --blockalign=4k --size=32M "${@:2}" \
    || { cat "$WORK/fio.out"; fail "fio through nbdkit"; }
}

delays() {
  has_filters delay
  new_volume delayed 64M
  serve delayed
  nbdkit_before delayed delay delay-read=3ms delay-write=5ms delay-zero=5ms delay-trim=5ms
  verified_through delayed --fsync=32
  end_nbdkit TERM
  stop_serve
}

# Each error makes the retry filter open its connection anew: the server sees it end with the other requests under way.
errors_and_retries() {
  has_filters error retry
  new_volume retried 64M
  serve retried
  nbdkit_before retried retry error retries=8 retry-delay=1 retry-exponential=no error=EIO error-pread-rate=0.5% error-pwrite-rate=0.5%
  verified_through retried --size=8M
  end_nbdkit TERM
  nobody_connected retried
  stop_serve
}

# The client sees the errors; whatever it was told is true all the same.
errors_are_told() {
  has_filters error
  head -c 32M /dev/urandom >"$WORK/told.img"
  new_volume told 32M
  serve told
  nbdkit_before told error error=ENOSPC error-pwrite-rate=100% error-file="$WORK/errors"
  touch "$WORK/errors"
  ! nbdcopy "$WORK/told.img" "$FILTERED" 2>"$WORK/nbdcopy.err" || fail "nbdcopy was not told"
  rm "$WORK/errors"
  nbdcopy --flush "$WORK/told.img" "$FILTERED"
  end_nbdkit TERM
  nbdcopy "$(uri told)" "$WORK/told.out"
  cmp "$WORK/told.img" "$WORK/told.out"
  stop_serve
}

# The client dies with requests under way, again and again; nothing of it is left, and the next one is served.
clients_die() {
  has_filters delay
  local round rounds=8
  [ -z "${SOAK-}" ] || rounds=100
  new_volume dying 64M
  serve dying
  for ((round = 1; round <= rounds; round++)); do
    nbdkit_before dying delay delay-read=1ms
    fio_job dying "$FILTERED"
    run_fio "$WORK/fio-dying.job" --do_verify=0 --verify_state_save=0 --time_based --runtime=30 --bsrange=4k-256k --blockalign=4k &
    local load=$!
    sleep "0.$((2 + RANDOM % 7))"
    end_nbdkit KILL
    ! wait "$load" || fail "fio did not notice"
  done
  nobody_connected dying
  FILTERED=$(uri dying)
  verified_through survivor
  stop_serve
}

# The threads of connections are gone with their clients.
nobody_connected() {
  wait_for 20 "the threads of the clients of $1 to end" no_connection_threads
}

no_connection_threads() { ! grep -qsE '^nbd-[0-9]' "/proc/$SERVE_PID"/task/*/comm; }

nbdkit_cases() {
  run_case "nbdkit: requests that are delayed" delays
  run_case "nbdkit: errors, and everything once more" errors_and_retries
  run_case "nbdkit: errors that the client is told of" errors_are_told
  run_case "nbdkit: clients that die with requests under way" clients_die
}
