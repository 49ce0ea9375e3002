# shellcheck shell=bash
# fio's verify jobs with its record of what was written (verify_state): written by one fio, the server killed by it on the
# way, read and checked by the next. To be sourced.

FIO_KILLS=3
[ -z "${SOAK-}" ] || FIO_KILLS=40

fio_job() {
  cat >"$WORK/fio-$1.job" <<J
[$1]
ioengine=nbd
uri=$2
rw=randwrite
bs=4k
iodepth=16
size=64M
randseed=$SEED
verify=crc32c
verify_fatal=1
verify_backlog=0
J
}

# In the work directory, where fio leaves its state files.
run_fio() { (cd "$WORK" && fio "$@" </dev/null >"$WORK/fio.out" 2>&1); }

server_is_gone() { ! kill -s 0 "$SERVE_PID" 2>/dev/null; }

# Nothing that completed is missing after the kill: the state says how far each of the requests was.
fio_killed() {
  need fio
  fio --enghelp=nbd >/dev/null 2>&1 || skip "this fio knows no NBD"
  trap 'stop_pid "$SERVE_PID" KILL' EXIT
  local round status
  new_volume fio 64M
  for ((round = 1; round <= FIO_KILLS; round++)); do
    serve fio
    fio_job killed "$(uri fio)"
    rm -f "$WORK"/*-verify.state
    # fio's own way to test a power failure: its trigger pulls the plug and saves what it had written.
    run_fio "$WORK/fio-killed.job" --do_verify=0 --rate_iops=$((2000 + RANDOM % 2000)) --fsync=$((8 + RANDOM % 64)) \
      --verify_state_save=1 --trigger-timeout=2s --trigger="kill -s KILL $SERVE_PID" || true
    # It has not if it ended before its trigger; then nobody else does.
    wait_for 10 "fio to kill the server" server_is_gone || { cat "$WORK/fio.out"; return 1; }
    wait "$SERVE_PID" 2>/dev/null || true
    SERVE_PID=''
    compgen -G "$WORK/*-killed-0-verify.state" >/dev/null || { cat "$WORK/fio.out"; fail "fio saved no state"; }
    rm -f "$SHM/control.sock"
    serve fio
    fio_job killed "$(uri fio)"
    run_fio "$WORK/fio-killed.job" --verify_state_load=1 --verify_state_save=0 --verify_only || { cat "$WORK/fio.out"; fail "fio verify"; }
    grep -E ' READ:|io=' "$WORK/fio.out" | head -n 1
    kill_serve
  done
  # That it would see damage is shown as well: one block of another.
  serve fio
  fio_job killed "$(uri fio)"
  local block
  for block in 0 1000 5000 9000 16383; do
    qemu-io -f raw "$(uri fio)" -c "write -P 9 $((block * 4096)) 4k" >/dev/null
  done
  status=0
  run_fio "$WORK/fio-killed.job" --verify_state_load=1 --verify_state_save=0 --verify_only || status=$?
  grep -q 'verify: bad' "$WORK/fio.out" || { cat "$WORK/fio.out"; fail "fio does not see what was damaged (status $status)"; }
  stop_serve
}

# fio's verify jobs of several kinds, checked by the process that wrote.
fio_kinds() {
  need fio
  fio --enghelp=nbd >/dev/null 2>&1 || skip "this fio knows no NBD"
  trap 'stop_pid "$SERVE_PID" KILL' EXIT
  local kind
  new_volume kinds 64M
  serve kinds
  for kind in md5 crc32c-intel sha256 xxhash; do
    fio_job "kind-$kind" "$(uri kinds)"
    run_fio "$WORK/fio-kind-$kind.job" --verify="$kind" --rw=randrw --bsrange=4k-256k --blockalign=4k --do_verify=1 \
      --verify_state_save=0 --fsync=64 --percentage_random=70 --size=32M || { cat "$WORK/fio.out"; fail "fio $kind"; }
  done
  # Written backwards, in steps, and over and over at a few places.
  fio_job zipf "$(uri kinds)"
  run_fio "$WORK/fio-zipf.job" --rw=randwrite --random_distribution=zipf:1.1 --norandommap --do_verify=1 --verify_state_save=0 \
    || { cat "$WORK/fio.out"; fail "fio zipf"; }
  fio_job backwards "$(uri kinds)"
  run_fio "$WORK/fio-backwards.job" --rw=write:-8k --do_verify=1 --verify_state_save=0 --size=32M || { cat "$WORK/fio.out"; fail "fio backwards"; }
  stop_serve
}

fio_cases() {
  run_case "fio: killed $FIO_KILLS times, checked by its saved state" fio_killed
  run_case "fio: verify jobs of several kinds" fio_kinds
}
