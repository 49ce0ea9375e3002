#!/bin/bash
# Compares the server over memory with nbdkit's memory plugin, in one run, interleaved: 4 KiB random reads and
# writes at depth 1 and 32, 128 KiB sequential both ways. Prints the medians of IOPS and
# their ratio, and the servers' CPU time per operation in microseconds.
# Usage: nbd-bench.sh PATH-OF-THE-MEMORY-EXAMPLE [SECONDS] [ROUNDS]
# Needs fio with the nbd engine, and nbdkit.
set -euo pipefail
server=${1:?path of the memory example} seconds=${2:-3} rounds=${3:-3}
dir=$(mktemp -d)
"$server" --unix "$dir/ours" --size 256 >"$dir/log" & ours=$!
nbdkit --foreground --unix "$dir/theirs" memory 256M & theirs=$!
trap 'kill $ours $theirs 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
for _ in $(seq 100); do [ -S "$dir/ours" ] && [ -S "$dir/theirs" ] && break; sleep 0.05; done
[ -S "$dir/ours" ] && [ -S "$dir/theirs" ] || { echo 'a server did not start' >&2; exit 1; }

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
measure() { # pid socket rw bs depth -> IOPS, CPU time per operation
    local pid=$1 before iops
    shift
    before=$(ticks "$pid")
    iops=$(run "$@")
    awk "BEGIN { print $iops, ($(ticks "$pid") - $before) * 1e6 / $(getconf CLK_TCK) / ($iops * $seconds + 1) }"
}
run() { # socket rw bs depth -> IOPS
    fio --name=b --ioengine=nbd --uri="nbd+unix:///?socket=$dir/$1" --rw="$2" --bs="$3" --iodepth="$4" --size=256M \
        --time_based --runtime="$seconds" --output-format=terse --terse-version=3 |
        awk -F';' '$1 == 3 { print ($8 + 0 > $49 + 0 ? $8 : $49) }'
}
median() { cut -d' ' -f"$1" "$2" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

for one in ours theirs; do # written with random data, so that no read is of a hole
    fio --name=fill --ioengine=nbd --uri="nbd+unix:///?socket=$dir/$one" --rw=write --bs=1M --size=256M \
        --refill_buffers --output-format=terse >/dev/null
done
printf '%-18s %10s %10s %7s %10s %10s\n' what ours nbdkit ratio 'our us' 'nbdkit us'
for job in "randread 4k 1" "randread 4k 32" "randwrite 4k 1" "randwrite 4k 32" "read 128k 8" "write 128k 8"; do
    : >"$dir/o"; : >"$dir/t"
    for _ in $(seq "$rounds"); do
        # shellcheck disable=SC2086
        { measure $ours ours $job >>"$dir/o"; measure $theirs theirs $job >>"$dir/t"; }
    done
    o=$(median 1 "$dir/o") t=$(median 1 "$dir/t")
    printf '%-18s %10d %10d %7s %10s %10s\n' "$job" "$o" "$t" "$(awk "BEGIN { printf \"%.2f\", $o / ($t + 0.1) }")" \
        "$(median 2 "$dir/o")" "$(median 2 "$dir/t")"
done
