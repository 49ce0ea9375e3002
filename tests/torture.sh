#!/usr/bin/env bash
# Torture of the real program: random faults under load in rounds that run side by side, each on a store and two hosts of
# its own, checked by clients that know what was acknowledged and flushed (testkit/examples/torture).
#
#   tests/torture.sh                     200 rounds, and two faults planted on purpose that must be found
#   tests/torture.sh --rounds 2000       whatever is given goes to the torturer: see `--help`
#   tests/torture.sh --minutes 480 --long        for a night, with outages of minutes
#   tests/torture.sh --seed S --round N --repeat 20   a round that failed; its moments are others each time, and every other
#                                        one compacts
#
# Every other round servers compact all the time (tests/eager); what they say of it stands at the end.
#
# TORTURE_ROUNDS   rounds [200]
# EAGER            odd; or all: every round; none [odd]
# TORTURE          the torturer [target/debug/examples/torture]; other environment: see tests/lib.sh
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

need_esker
TORTURE=${TORTURE:-$(dirname "$ESKER")/examples/torture}
[ -x "$TORTURE" ] || { say "no torturer at $TORTURE: cargo build --workspace --bins --examples" >&2; exit 1; }
export ESKER S3D RUST_BACKTRACE=0

# Small disks are mounted where nobody else sees them.
APART=(unshare --mount)
"${APART[@]}" true 2>/dev/null || APART=(unshare --map-root-user --mount)
"${APART[@]}" true 2>/dev/null || APART=()

torture() { "${APART[@]}" "$TORTURE" --disks "$@"; }

# What somebody planted must be reported, by the comparison and not by something else on the way.
must_be_found() {
  local status=0
  torture --plant "$1" --keep "$WORK/planted" | tee "$WORK/planted.log" || status=$?
  [ $status = 1 ] || fail "the torturer ends with $status"
  grep -q '^FAILED .* Flushed: ' "$WORK/planted.log" || fail "it was not found by comparing"
}

need_jq() { has jq || { say "no jq here: scripts/setup installs it; EAGER=none goes without" >&2; exit 1; }; }

# Without a last line of its own the rounds did not come to their end.
rounds() {
  local status=0 least=1
  case " $* " in "  ") least=10 ;; *" --round "*) least=0 ;; esac
  export EAGER=${EAGER:-odd}
  if [ "$EAGER" != none ]; then
    need_jq
    eager
  fi
  torture "$@" 2>&1 | tee "$WORK/torture.log" || status=$?
  if [ "$EAGER" != none ] && ! have_compacted $least; then status=1; fi
  while read -r line; do skipped "$line"; done < <(sed -n 's/^skipped //p' "$WORK/torture.log")
  if [ $status = 0 ] && grep -q '^torture: no round failed$' "$WORK/torture.log"; then
    PASSED=$((PASSED + 1))
  else
    FAILED=$((FAILED + 1))
    say "FAILED  rounds (status $status)"
  fi
}

if [ $# -gt 0 ]; then
  rounds "$@"
else
  run_case "a store that forgets what it has acknowledged is found" must_be_found pretend
  run_case "a segment that somebody removed is found" must_be_found remove
  rounds
fi
