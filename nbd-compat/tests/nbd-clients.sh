#!/bin/bash
# Real clients against the server over memory: nbdinfo, nbdcopy, qemu-img, qemu-io, fio; over unix, TCP and TLS.
# Usage: nbd-clients.sh PATH-OF-THE-MEMORY-EXAMPLE. Exit 77: a client is not installed (its name is printed).
set -euo pipefail
server=${1:?path of the memory example}
for tool in nbdinfo nbdcopy qemu-img qemu-io fio certtool; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 77; }
done
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
start() { # arguments of the server
    "$server" --size 64 "$@" >"$dir/log" &
    pids+=($!)
    for _ in $(seq 200); do grep -q ready "$dir/log" && return; sleep 0.05; done
    fail "the server did not start: $*"
}
uri="nbd+unix:///?socket=$dir/nbd"
start --unix "$dir/nbd"

echo '== nbdinfo'
[ "$(nbdinfo --size "$uri")" = $((64 << 20)) ] || fail 'size'
nbdinfo --list "$uri" | grep -q 'export="memory"' || fail 'list'
for can in flush fua trim zero fast-zero cache df multi-conn; do nbdinfo --can "$can" "$uri" || fail "can $can"; done
nbdinfo --map "$uri" | grep -q 'hole,zero' || fail 'map'

echo '== nbdcopy, both ways'
head -c 40000000 /dev/urandom >"$dir/image"
truncate -s 64M "$dir/image"
nbdcopy --connections=4 --flush "$dir/image" "$uri"
nbdcopy --connections=4 "$uri" "$dir/back"
cmp "$dir/image" "$dir/back" || fail 'what came back differs'

echo '== qemu-img and qemu-io'
qemu-img convert -f raw -O qcow2 "$dir/image" "$dir/image.qcow2"
qemu-img convert -n -f qcow2 -O raw "$dir/image.qcow2" "nbd:unix:$dir/nbd"
qemu-img compare -f qcow2 -F raw "$dir/image.qcow2" "nbd:unix:$dir/nbd"
qemu-io -f raw "nbd:unix:$dir/nbd" -c 'write -P 0xab 1001 70000' -c 'read -P 0xab 1001 70000' -c 'write -z 512 4k' \
    -c 'read -P 0 512 4k' -c 'write -z -u 1M 9M' -c 'read -P 0 1M 9M' -c 'discard 20M 8M' -c 'write -f -P 7 0 4k' \
    -c 'flush' -c 'read -P 7 0 4k' >"$dir/io"
! grep -Eiq 'fail|error|mismatch' "$dir/io" || { cat "$dir/io"; fail 'qemu-io'; }

echo '== fio, four connections, verified'
fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bsrange=512-128k --bs_unaligned --iodepth=32 --size=16M \
    --offset_increment=16M --numjobs=4 --verify=crc32c --output-format=terse >/dev/null || fail 'fio'

echo '== read-only'
start --unix "$dir/ro" --read-only
nbdinfo --is read-only "nbd+unix:///?socket=$dir/ro" || fail 'not read-only'
! qemu-io -f raw "nbd:unix:$dir/ro" -c 'write 0 512' >"$dir/io" 2>&1 || fail 'a read-only export was opened to write'

echo '== TLS over TCP, with client certificates'
mkdir "$dir/pki"
cd "$dir/pki"
certtool --generate-privkey --key-type=ecdsa --outfile ca-key.pem 2>/dev/null
printf 'cn = test\nca\ncert_signing_key\n' >ca.info
certtool --generate-self-signed --load-privkey ca-key.pem --template ca.info --outfile ca-cert.pem 2>/dev/null
for who in server client; do
    certtool --generate-privkey --key-type=ecdsa --outfile $who-key.pem 2>/dev/null
    printf 'cn = localhost\ndns_name = localhost\ntls_www_%s\nsigning_key\n' $who >$who.info
    certtool --generate-certificate --load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem \
        --load-privkey $who-key.pem --template $who.info --outfile $who-cert.pem 2>/dev/null
done
port=$((20000 + RANDOM % 20000))
start --tcp "127.0.0.1:$port" --tls "$dir/pki" --tls-required --tls-verify
tls="nbds://localhost:$port/?tls-certificates=$dir/pki"
nbdinfo "$tls" | grep -q 'with TLS' || fail 'TLS'
nbdcopy "$dir/image" "$tls"
nbdcopy "$tls" "$dir/back"
cmp "$dir/image" "$dir/back" || fail 'what came back through TLS differs'
! nbdinfo "nbd://localhost:$port/" >"$dir/io" 2>&1 || fail 'served in the clear where TLS is required'

echo '== shutdown'
kill -TERM "${pids[0]}"
wait "${pids[0]}" || fail 'the server did not end well'
[ ! -e "$dir/nbd" ] || fail 'the socket was left behind'
echo 'all clients are content'
