# shellcheck shell=bash
# Sources of other projects, from Debian's archive by a private apt directory: what this machine has installed and where it
# installs from stays as it is. To be sourced.

EXTERNAL_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/esker/external
SUITE=bookworm

private_apt() {
  local tool=$1 dir=$EXTERNAL_CACHE/apt
  shift
  # Root's apt would fetch as the user _apt, who may not enter a home directory.
  "$tool" -q -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::SourceList="$dir/sources.list" -o Acquire::Languages=none -o APT::Sandbox::User=root \
    -o Acquire::Retries=3 "$@"
}

# debian_source PACKAGE PATH...: skips the case unless these parts of the package's sources are to be had; sets SOURCE, the
# directory that they lie in.
debian_source() {
  local package=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg dir=$EXTERNAL_CACHE/$1
  shift
  SOURCE=$dir/source
  [ ! -e "$dir/complete" ] || return 0
  need apt-get tar xz
  [ -r "$keyring" ] || skip "the sources of $package come from Debian only (no $keyring)"
  mkdir -p "$EXTERNAL_CACHE/apt/lists/partial" "$EXTERNAL_CACHE/apt/cache/archives/partial" "$dir/archive"
  echo "deb-src [signed-by=$keyring] ${ESKER_LAB_MIRROR:-http://deb.debian.org/debian} $SUITE main" >"$EXTERNAL_CACHE/apt/sources.list"
  private_apt apt-get update || skip "no lists of Debian's sources"
  (cd "$dir/archive" && private_apt apt-get source --download-only "$package") || skip "no sources of $package"
  local archive top
  archive=$(find "$dir/archive" -name '*.orig.tar.*' ! -name '*.asc' | head -n 1)
  # The name of the directory that all is in.
  top=$(tar -tf "$archive" 2>/dev/null | head -n 1 | cut -d / -f 1) || true
  rm -rf "$SOURCE"
  mkdir -p "$SOURCE"
  tar -C "$SOURCE" --strip-components=1 -xf "$archive" "${@/#/$top/}"
  rm -rf "$dir/archive"
  touch "$dir/complete"
}
