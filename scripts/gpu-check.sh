#!/bin/sh
# What is this GPU, do the kernels compute right on it, and how fast? Needs the single executable and nothing else: copy
# both to a machine with a GPU, and bring the JSON file back.
#
#   sh gpu-check.sh [-b ./rlhf] [-o gpu-check.json] [-d NAME] [BENCH…]
#
# -b the executable, -o the file to write, -d part of the adapter's name; BENCH… only these benchmarks. Exits with 1 if
# a part failed; the file is written all the same.
set -u
rlhf=./rlhf
[ -x "$rlhf" ] || rlhf=$(command -v rlhf || echo ./rlhf)
out=gpu-check.json
device=
while getopts b:o:d: option; do
  case $option in
    b) rlhf=$OPTARG ;;
    o) out=$OPTARG ;;
    d) device=$OPTARG ;;
    *) sed -n 's/^#   sh/usage: sh/p' "$0" >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
if ! { [ -f "$rlhf" ] && [ -x "$rlhf" ]; }; then
  echo "gpu-check: $rlhf is not an executable file" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0

# part NAME COMMAND…: runs it, keeps its output, errors and exit code.
part() {
  part=$1
  shift
  echo "gpu-check: $part" >&2
  "$@" ${device:+--device "$device"} > "$work/$part.out" 2> "$work/$part.err"
  code=$?
  echo "$code" > "$work/$part.code"
  if [ "$code" -ne 0 ]; then
    failed=1
    tail -n 3 "$work/$part.err" >&2
  fi
}

# Lines of text as a JSON array of strings; lines of JSON as an array of values.
strings() {
  tr -d '\000-\010\013-\037' < "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' -e 's/.*/"&"/' -e '$!s/$/,/'
}
values() {
  grep '^{.*}$' "$1" | sed '$!s/$/,/'
}

export RLHF_MATRIX_UNITS=1 # so that the self-test checks them where there are any
part doctor "$rlhf" doctor
part self_test "$rlhf" doctor --self-test
part bench "$rlhf" bench "$@"

"$rlhf" --version > "$work/version"
uname -srm > "$work/system"
date -u +%Y-%m-%dT%H:%M:%SZ > "$work/date"
{
  printf '{"date": %s,\n "version": %s,\n "system": %s,\n' \
    "$(strings "$work/date")" "$(strings "$work/version")" "$(strings "$work/system")"
  for part in doctor self_test bench; do
    if [ "$part" = bench ]; then form=values; else form=strings; fi
    printf ' "%s": {"exit_code": %s,\n  "output": [\n%s],\n  "notes": [\n%s]}%s\n' "$part" "$(cat "$work/$part.code")" \
      "$($form "$work/$part.out")" "$(strings "$work/$part.err")" "$([ "$part" = bench ] || echo ,)"
  done
  echo '}'
} > "$out"
echo "gpu-check: $out" >&2
exit $failed
