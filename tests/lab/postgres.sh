#!/usr/bin/env bash
# PostgreSQL on ext4 on a device, under pgbench, while the daemon is killed and recovered: no client sees an error, the
# balances add up, checksums and indexes are right; also after the machine lost its power in the database's eyes.
#
# SECONDS_OF_LOAD   how long pgbench runs [60]
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

SECONDS_OF_LOAD=${SECONDS_OF_LOAD:-60}
BIN=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)

# as_postgres COMMAND...: the server does not run as root.
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/tmp PGHOST="$SOCKETS" PGUSER=postgres "$@"; }
SOCKETS=$WORK/sockets

sql() { as_postgres "$BIN/psql" -XAtq -v ON_ERROR_STOP=1 -d bench -c "$1"; }

start_server() {
  as_postgres "$BIN/pg_ctl" -w -t 60 -D "$MNT/db" -l "$SOCKETS/log" start >/dev/null || { tail -n 20 "$SOCKETS/log"; fail "no server"; }
}

new_database() {
  install -d -o postgres "$MNT/db" "$SOCKETS"
  chmod 755 "$WORK"
  as_postgres "$BIN/initdb" -D "$MNT/db" --data-checksums --no-sync -A trust >"$WORK/initdb.out" 2>&1 || { cat "$WORK/initdb.out"; fail "initdb"; }
  cat >>"$MNT/db/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$SOCKETS'
shared_buffers = 32MB
checkpoint_timeout = 30s
max_wal_size = 64MB
full_page_writes = on
CONF
  start_server
  as_postgres "$BIN/createdb" bench
  as_postgres "$BIN/pgbench" -i -s 2 -q bench >/dev/null 2>&1
}

adds_up() {
  local sums
  sums=$(sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
    and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
    and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)')
  [ "$sums" = t ] || fail "the balances do not add up"
  say "$(sql 'select count(*) from pgbench_history') transactions"
}

# Every index against its table; every page against its checksum.
sound() {
  if [ -x "$BIN/pg_amcheck" ] && sql 'create extension if not exists amcheck' 2>/dev/null; then
    as_postgres "$BIN/pg_amcheck" --heapallindexed --parent-check bench || fail "amcheck"
  else
    say "note: no amcheck here"
  fi
  as_postgres "$BIN/pg_ctl" -w -D "$MNT/db" -m fast stop >/dev/null
  as_postgres "$BIN/pg_checksums" --check -D "$MNT/db" | tail -n 3
}

under_kills() {
  [ -n "$BIN" ] && [ -x "$BIN/initdb" ] || skip "no PostgreSQL here"
  id postgres >/dev/null 2>&1 || skip "no user postgres here"
  mine disk
  attach disk
  AT_END='as_postgres "$BIN/pg_ctl" -D "$MNT/db" -m immediate stop >/dev/null 2>&1'
  make_fs ext4 "$DEV"
  mount_fs "$DEV"
  new_database
  local kills=0 bench
  as_postgres "$BIN/pgbench" -n -c 4 -j 1 -T "$SECONDS_OF_LOAD" bench >"$WORK/pgbench.out" 2>&1 &
  bench=$!
  until is_gone $bench; do
    sleep "$(between 500 3000)"
    is_gone $bench && break
    kill_daemon
    sleep "$(between 0 300)"
    recover disk
    kills=$((kills + 1))
  done
  wait $bench || { cat "$WORK/pgbench.out"; fail "a client met an error"; }
  grep -E 'processed|failed|tps' "$WORK/pgbench.out"
  say "$kills kills"
  adds_up
  # The server is killed, not stopped: it has to recover from what is on the device.
  kill -s KILL "$(head -n 1 "$MNT/db/postmaster.pid")"
  sleep 1
  rm -f "$MNT/db/postmaster.pid"
  echo 3 >/proc/sys/vm/drop_caches
  start_server
  adds_up
  sound
  ! grep -E 'PANIC|could not (write|fsync|read)' "$SOCKETS/log" || fail "the server saw errors"
  umount "$MNT"
  check_fs ext4 "$DEV"
  expect_exit 0 "$ESKER" detach disk
}

open_lab
new_volumes disk:1G
run_case "pgbench for $SECONDS_OF_LOAD s with the daemon killed under it" under_kills
close_lab
