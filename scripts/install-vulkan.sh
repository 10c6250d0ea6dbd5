#!/bin/sh
# Installs Mesa's software Vulkan driver (lavapipe) on Debian or Ubuntu. Run as root; scripts/setup.sh does so where
# it finds no adapter. Debian 12's own driver is too old for Dawn: there it comes from bookworm-backports, with a
# source made of the machine's own source entry, so that its mirror, options and keys stay as they are.
#   --print-source   only print that source
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

backports=bookworm-backports
kind=sources
source=$(paragraph bookworm "$backports")
if [ -z "$source" ]; then
  kind=list
  source=$(line bookworm "$backports" || true)
fi
if [ "${1:-}" = --print-source ]; then
  printf '%s\n' "$source"
  exit
fi

if [ ! -r /etc/os-release ] || ! command -v apt-get > /dev/null; then
  echo 'no apt-get here: please install a Vulkan driver (Mesa 23 or newer has a software one)' >&2
  exit 1
fi
. /etc/os-release
release=
if [ "${ID:-}" = debian ] && [ "${VERSION_ID:-}" = 12 ]; then
  release=$backports
  if ! apt-cache policy | grep -q "n=$backports"; then
    [ -n "$source" ] || { echo "no source entry of bookworm in $apt to make one of $backports from" >&2; exit 1; }
    printf '%s\n' "$source" > "$apt/sources.list.d/rlhf-backports.$kind"
  fi
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends ${release:+-t "$release"} libvulkan1 mesa-vulkan-drivers
