#!/usr/bin/env bash
# What a token costs as things grow, measured with the commands themselves: context 64 … 1,024, width 64 … 768, answers a
# prompt K 2 … 14, and 10² … 10⁶ rows through a pipe. Writes DIR/scale.jsonl and DIR/scale.html, one page of four plots.
#
#   scripts/scale.sh [--quick] [--only contexts|widths|answers|rows] [--rows N] [--no-setup] [--out DIR]
#
# Takes a quarter of an hour on two idle CPU cores without a GPU, with --quick three; --rows 100000 has models take no more, in five minutes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
options=() setup=yes
for option in "$@"; do
  case $option in
    --no-setup) setup= ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    *) options+=("$option") ;;
  esac
done
[ "$setup" ] && "$root/scripts/setup.sh"
exec node "$root/scripts/scale.mjs" ${options[@]+"${options[@]}"}
