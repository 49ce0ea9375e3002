# shellcheck shell=bash
# Debian's archive through a private apt directory: packages of other suites (backports, contrib) can be looked up and
# downloaded; what this machine has installed and where it installs from stays as it is. To be sourced after common.sh.

DEBIAN_MIRROR=${ESKER_LAB_MIRROR:-http://deb.debian.org/debian}
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
DEBIAN_DIR=$LAB_CACHE/apt

# private_apt apt-get|apt-cache ARGUMENT...
private_apt() {
  local tool=$1
  shift
  # Root's apt would fetch as the user _apt, who may not enter a home directory.
  "$tool" -q -o Dir::State::Lists="$DEBIAN_DIR/lists" -o Dir::Cache="$DEBIAN_DIR/cache" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::SourceList="$DEBIAN_DIR/sources.list" -o Acquire::Languages=none -o APT::Sandbox::User=root \
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=3 "$@"
}

# Once an hour at most: one build asks for several packages, and several builds may run.
debian_update() {
  mkdir -p "$DEBIAN_DIR"
  (flock 8; update_lists) 8>"$DEBIAN_DIR/lock"
}

update_lists() {
  need_commands apt-get apt-cache dpkg-deb
  [ -r "$DEBIAN_KEYRING" ] || die "no $DEBIAN_KEYRING: this needs Debian (package debian-archive-keyring)"
  mkdir -p "$DEBIAN_DIR/lists/partial" "$DEBIAN_DIR/cache/archives/partial"
  if [ -n "$(find "$DEBIAN_DIR/updated" -mmin -60 2>/dev/null)" ]; then return 0; fi
  local suite
  for suite in bookworm bookworm-backports trixie trixie-backports; do
    say "deb [signed-by=$DEBIAN_KEYRING] $DEBIAN_MIRROR $suite main contrib"
  done >"$DEBIAN_DIR/sources.list"
  private_apt apt-get update >&2 || die "no package lists from $DEBIAN_MIRROR"
  touch "$DEBIAN_DIR/updated"
}

# debian_has PACKAGE=VERSION
debian_has() { private_apt apt-cache madison "${1%%=*}" | awk -F ' *[|] *' -v v="${1#*=}" '$2 == v { found = 1 } END { exit !found }'; }

# debian_download DIR PACKAGE=VERSION...: the packages' files, checked by apt, come to lie in DIR.
debian_download() {
  local dir=$1
  shift
  mkdir -p "$dir"
  (cd "$dir" && private_apt apt-get download "$@" >&2)
}
