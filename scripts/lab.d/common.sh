# shellcheck shell=bash
# Shared by scripts/lab and what lies in lab.d. To be sourced.

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# shellcheck disable=SC2034  # for those who source this
LAB_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/esker/lab

say() { printf '%s\n' "$*"; }
note() { printf 'lab: %s\n' "$*" >&2; }
die() { note "$@"; exit 125; }
has() { command -v "$1" >/dev/null; }

# need_commands COMMAND...: ends unless all are there.
need_commands() {
  local c missing=()
  for c in "$@"; do has "$c" || missing+=("$c"); done
  [ ${#missing[@]} = 0 ] || die "not here: ${missing[*]} (scripts/setup installs them)"
}

# hash_of FILE...: 12 digits.
hash_of() { cat "$@" | sha256sum | cut -c 1-12; }
