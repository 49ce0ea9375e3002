# shellcheck shell=bash
# libnbd's own tests, built from its sources against the libnbd that is installed. To be sourced.
#
# Applied: aio-parallel, aio-parallel-load and synch-parallel (many requests on many connections, every byte compared), and
# of the tests of its Python module those that read a pattern. They start nbdkit by a command; a stand-in of that name takes
# them to our server, which has the pattern.
#
# Not applied: the rest start a server of their own to try the client (its errors, its options, oldstyle, a server's death,
# scripted replies); the interop tests start theirs by socket activation or on stdin, which `esker serve` does not do; the
# TLS ones use pre-shared keys, where ours has certificates.

LIBNBD_DIR=$WORK/libnbd

# The volume that has nbdkit's pattern: each 8 bytes hold their own offset.
pattern_volume() {
  new_volume "$1" "$2"
  serve "$1"
  nbdkit -U - pattern size="$2" --run "nbdcopy --flush \$uri '$(uri "$1")'"
}

libnbd_built() {
  need gcc nbdkit nbdcopy pkg-config
  pkg-config --exists libnbd || skip "no libnbd-dev here (scripts/setup installs it)"
  debian_source libnbd tests common python/t
  mkdir -p "$LIBNBD_DIR"
  : >"$LIBNBD_DIR/config.h"
  gcc -O1 -w -I"$LIBNBD_DIR" -I"$SOURCE/tests" -I"$SOURCE/common/include" -o "$LIBNBD_DIR/$1" "$SOURCE/tests/$1.c" -lnbd -lpthread
  trap 'stop_pid "$SERVE_PID" KILL' EXIT
}

libnbd_parallel() {
  libnbd_built "$1"
  pattern_volume "$1" "$2"
  timeout 300 "$LIBNBD_DIR/$1" "$SHM/nbd.sock"
  stop_serve
}

libnbd_python() {
  need nbdkit nbdcopy
  /usr/bin/python3 -c 'import nbd' 2>/dev/null || skip "no python3-libnbd here (scripts/setup installs it)"
  debian_source libnbd tests common python/t
  trap 'stop_pid "$SERVE_PID" KILL' EXIT
  pattern_volume pattern 1M
  mkdir -p "$LIBNBD_DIR/bin"
  cat >"$LIBNBD_DIR/bin/nbdkit" <<'PY'
#!/usr/bin/python3
# Stands in for `nbdkit -s ... pattern`: stdin is a socket to the client, carried to the server that has the pattern.
import os, socket, sys, threading
if "pattern" not in sys.argv:
    sys.exit("only the pattern is here")
client = socket.socket(fileno=os.dup(0))
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["PATTERN_SOCKET"])
def carry(source, sink):
    while data := source.recv(1 << 16):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
back = threading.Thread(target=carry, args=(server, client))
back.start()
carry(client, server)
back.join()
PY
  chmod +x "$LIBNBD_DIR/bin/nbdkit"
  local t
  for t in 400-pread 405-pread-structured 500-aio-pread 505-aio-pread-callback; do
    say "$t"
    PATH=$LIBNBD_DIR/bin:$PATH PATTERN_SOCKET=$SHM/nbd.sock timeout 60 /usr/bin/python3 "$SOURCE/python/t/$t.py"
  done
  stop_serve
}

libnbd_cases() {
  run_case "libnbd: aio-parallel" libnbd_parallel aio-parallel 64M
  run_case "libnbd: aio-parallel-load" libnbd_parallel aio-parallel-load 64M
  run_case "libnbd: synch-parallel" libnbd_parallel synch-parallel 8M
  run_case "libnbd: its Python tests that read" libnbd_python
}
