#!/usr/bin/env bash
# Block devices on a kernel that has ublk: the topics in tests/lab, each in a boot of its own of the lab's kernel, side by
# side, or all natively, one after the other, where the running kernel has ublk (see docs/lab.md). Against a real S3 server
# on the loopback.
#
#   tests/lab.sh                      all topics
#   tests/lab.sh crash stress         these
#   WITHOUT="space zfs" tests/lab.sh  all but these
#
# ROUNDS, ROUNDS_2   kills of the daemon in topic crash, with one CPU and with two [50, 20]
# SPACE_GIB          GiB that topic space writes, deletes and trims away [1]
# SEED               where random moments are drawn from; each topic prints its own
# LAB_JOBS           topics side by side; the output of each is shown when it is over [processors, at most 4; natively 1]
# LAB_FLAGS          more flags for scripts/lab, such as --tcg
# Environment: see tests/lib.sh.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-50} ROUNDS_2=${ROUNDS_2:-20} SPACE_GIB=${SPACE_GIB:-1}
read -ra LAB <<<"$ROOT/scripts/lab ${LAB_FLAGS-}"
export ESKER S3D
# The longest first: what is left at the end fills the gaps.
TOPICS=(crash stress space handover postgres stressng exits filesystems memory zfs limits nbd)

# Topics that race with signals and clocks. If a case of theirs fails, the topic is booted once more, and if it passes then,
# that stands at the end among what was skipped, by name. Where data is wrong (`wrong_data` in tests/lab/lib.sh), and in all
# topics that are about nothing else (crash, filesystems, space, zfs, postgres, stressng), one failure is a failure.
RACY=" limits handover stress exits memory nbd "

# boot TOPIC SECONDS FLAG... -- VARIABLE=VALUE...: runs a topic in the lab and counts its cases among ours.
boot() {
  local failed
  if boot_once "$@" || [[ $RACY != *" $1 "* ]] || grep -q 'FAILED: DATA' "$WORK/$1.log"; then count "$1"; return; fi
  failed=$(sed -n 's/^FAILED  //p' "$WORK/$1.log" | paste -sd ';')
  say "--- $1 once more: $failed"
  if boot_once "$@"; then skipped "$1: passed the second time only; the first time failed: ${failed:-no result}"; fi
  count "$1"
}

# boot_once: leaves the topic's output in $WORK/TOPIC.log and its status in STATUS; fails unless all cases passed.
boot_once() {
  local topic=$1 limit=$2 flags=() begin=$SECONDS
  shift 2
  while [ "$1" != -- ]; do flags+=("$1"); shift; done
  shift
  say "--- $topic ${flags[*]} $*"
  set +e
  env "$@" "${LAB[@]}" --timeout "$limit" "${flags[@]}" "$ROOT/tests/lab/$topic.sh" </dev/null 2>&1 | tee "$WORK/$topic.log"
  STATUS=${PIPESTATUS[0]}
  set -e
  say "--- $topic took $((SECONDS - begin)) s"
  [ "$STATUS" = 0 ]
}

# count TOPIC: what its last boot said.
count() {
  local p f s
  if read -r p f s < <(sed -nE "s/^$1\.sh: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped\$/\1 \2 \3/p" "$WORK/$1.log" | tail -n 1); then
    PASSED=$((PASSED + p)) FAILED=$((FAILED + f)) SKIPPED=$((SKIPPED + s))
    if [ "$STATUS" != 0 ] && [ "$f" = 0 ]; then FAILED=$((FAILED + 1)); say "FAILED  $1 (status $STATUS)"; fi
  else
    FAILED=$((FAILED + 1))
    say "FAILED  $1: no result (status $STATUS)"
  fi
}

has_zfs() { "${LAB[@]}" --zfs true >"$WORK/zfs-$1.log" 2>&1; }

topic() {
  local store=$WORK/store-$1
  case $1 in
    crash)
      boot crash 900 --cpus 1 -- ROUNDS="$ROUNDS"
      boot crash 900 --cpus 2 -- ROUNDS="$ROUNDS_2" ONLY=rounds ;;
    memory)
      mkdir "$store"
      boot memory 600 --cpus 1 --memory 512M --rw "$store" -- STORE_DIR="$store"
      rm -rf "$store" ;;
    space)
      local with=()
      if has_zfs space; then with=(--zfs); fi
      mkdir "$store"
      boot space $((900 + 300 * SPACE_GIB)) --cpus 1 "${with[@]}" --rw "$store" -- STORE_DIR="$store" SPACE_GIB="$SPACE_GIB"
      rm -rf "$store" ;;
    zfs)
      if has_zfs zfs; then boot zfs 600 --zfs --
      else skipped "zfs: $(tail -n 1 "$WORK/zfs-zfs.log")"
      fi ;;
    handover) boot handover 600 --cpus 2 -- ;;
    *) boot "$1" 600 -- ;;
  esac
}

# --- side by side

# Guests get in each other's way nowhere but on the processors and in memory, of which a file in /dev/shm is each one's, of
# 4 GiB at most; on the running kernel all topics share the devices.
default_jobs() {
  case "$kernel ${LAB_FLAGS-}" in *"own kernel"* | *--tcg*) say 1; return ;; esac
  local most=4 have
  for have in "$(nproc)" $(($(df --output=avail -k /dev/shm | tail -n 1) >> 22)) \
    $(($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) >> 22)); do
    if [ "$have" -lt "$most" ]; then most=$have; fi
  done
  say $((most > 1 ? most : 1))
}

# lane TOPIC: its output and its counts are left in files.
lane() {
  trap - EXIT
  PASSED=0 FAILED=0 SKIPPED=0
  topic "$1"
  say "$PASSED $FAILED $SKIPPED" >"$WORK/$1.counts.new"
  mv "$WORK/$1.counts.new" "$WORK/$1.counts"
}

end_lanes() {
  local pid
  for pid in $(jobs -rp); do pkill -TERM -P "$pid"; kill "$pid"; done 2>/dev/null
  # Guests write to what is removed next.
  sleep 1
}

show_finished() {
  local name p f s
  for name in "$@"; do
    [ -e "$WORK/$name.counts" ] || continue
    cat "$WORK/$name.lane"
    read -r p f s <"$WORK/$name.counts"
    PASSED=$((PASSED + p)) FAILED=$((FAILED + f)) SKIPPED=$((SKIPPED + s))
    rm "$WORK/$name.counts" "$WORK/$name.lane"
  done
}

# side_by_side TOPIC...
side_by_side() {
  local name
  defer end_lanes
  for name in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; show_finished "$@"; done
    lane "$name" >"$WORK/$name.lane" 2>&1 &
  done
  while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || true; show_finished "$@"; done
  show_finished "$@"
  for name in "$@"; do
    [ -e "$WORK/$name.lane" ] || continue
    cat "$WORK/$name.lane"
    FAILED=$((FAILED + 1))
    say "FAILED  $name: it broke off"
  done
}

need_esker
if [ $# -eq 0 ]; then
  for name in "${TOPICS[@]}"; do
    [[ " ${WITHOUT-} " = *" $name "* ]] || set -- "$@" "$name"
  done
fi
[ "$(printf '%s\n' "$@" | sort | uniq -d)" = '' ] || { say "a topic is named twice: $*" >&2; exit 2; }
for name in "$@"; do
  [ -x "$ROOT/tests/lab/$name.sh" ] || { say "no such topic: $name (there are: ${TOPICS[*]})" >&2; exit 2; }
done
if ! kernel=$("${LAB[@]}" --kernel 2>"$WORK/kernel.log"); then
  skipped "everything: no kernel with ublk: $(tail -n 1 "$WORK/kernel.log")"
  exit 0
fi
say "the kernel: $kernel"
JOBS=${LAB_JOBS:-$(default_jobs)}
if [ "$JOBS" -le 1 ] || [ $# = 1 ]; then
  for name in "$@"; do topic "$name"; done
else
  side_by_side "$@"
fi
