#!/bin/sh
# Installs Mesa's software Vulkan driver (lavapipe) on Debian or Ubuntu. Run as root; scripts/setup.sh does so where
# it finds no adapter. Debian 12's own driver is too old for Dawn, Debian 13's compiles kernels four times as slowly as
# later ones: there it comes from the release's backports, with a source made of the machine's own source entry, so that
# its mirror, options and keys stay as they are.
#   --print-source CODENAME   only print that source
set -eu
apt=${APT_FOLDER:-/etc/apt} # another one in tests

# The first enabled paragraph "Types: deb / URIs: … / Suites: … bookworm …" of the .sources files, for suite $2.
paragraph() {
  for file in "$apt"/sources.list.d/*.sources; do
    [ -r "$file" ] || continue
    grep -v '^#' "$file" | awk -v suite="$1" -v other="$2" '
      BEGIN { RS = ""; FS = "\n" }
      {
        found = 0; enabled = 1; binary = 0; text = ""
        for (i = 1; i <= NF; i++) {
          line = $i
          if (line ~ /^Enabled:[ \t]*no/) enabled = 0
          if (line ~ /^Types:.*deb([ \t]|$)/) binary = 1
          if (line ~ /^Suites:/) {
            n = split(substr(line, 8), names, /[ \t]+/)
            for (j = 1; j <= n; j++) if (names[j] == suite) found = 1
            line = "Suites: " other
          }
          text = text line "\n"
        }
        if (found && enabled && binary) { printf "%s\n", text; exit }
      }'
  done | awk 'BEGIN { RS = "" } NR == 1'
}

# The first line "deb [options] mirror bookworm main …" of the .list files, for suite $2.
line() {
  cat "$apt/sources.list" "$apt"/sources.list.d/*.list 2> /dev/null | awk -v suite="$1" -v other="$2" '
    $1 == "deb" { for (i = 2; i <= NF; i++) if ($i == suite) { $i = other; print; exit } }'
}

# The source of suite $1's backports; $kind says in which of the two forms.
find_source() {
  kind=sources
  source=$(paragraph "$1" "$1-backports")
  if [ -z "$source" ]; then
    kind=list
    source=$(line "$1" "$1-backports" || true)
  fi
}

if [ "${1:-}" = --print-source ]; then
  find_source "$2"
  printf '%s\n' "$source"
  exit
fi

if [ ! -r /etc/os-release ] || ! command -v apt-get > /dev/null; then
  echo 'no apt-get here: please install a Vulkan driver (Mesa 23 or newer has a software one)' >&2
  exit 1
fi
. /etc/os-release
codename=
case "${ID:-}${VERSION_ID:-}" in
  debian12) codename=bookworm ;;
  debian13) codename=trixie ;;
esac
release=
if [ -n "$codename" ]; then
  if apt-cache policy | grep -q "n=$codename-backports"; then
    release=$codename-backports
  else
    find_source "$codename"
    if [ -n "$source" ]; then
      printf '%s\n' "$source" > "$apt/sources.list.d/rlhf-backports.$kind"
      release=$codename-backports
    elif [ "$codename" = bookworm ]; then
      echo "no source entry of bookworm in $apt to make one of its backports from" >&2
      exit 1
    fi
  fi
fi
export DEBIAN_FRONTEND=noninteractive
# Debian 13 can do without, where its mirror has no backports.
if ! apt-get update; then
  [ "$codename" = trixie ] && [ -n "${source:-}" ] || exit 1
  rm "$apt/sources.list.d/rlhf-backports.$kind"
  release=
  apt-get update
fi
# libatomic1: the single binary needs it.
apt-get install -y --no-install-recommends ${release:+-t "$release"} libvulkan1 mesa-vulkan-drivers libatomic1
