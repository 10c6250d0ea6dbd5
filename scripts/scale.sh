#!/usr/bin/env bash
# What a token costs as things grow, measured with the commands themselves: context 64 … 1,024, width 64 … 768, answers a
# prompt K 2 … 14, and rows through a pipe: 10² … 10⁵ where there is a model, 10² … 10⁶ where none is. Writes DIR/scale.jsonl and
# DIR/scale.html, one page of four plots.
#
#   scripts/scale.sh [--quick] [--only contexts|widths|answers|rows] [--rows N] [--no-setup] [--out DIR]
#
# Takes twenty minutes on two idle CPU cores without a GPU, with --quick three; --rows 1000000 has the models take 10⁶ rows, too.
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
