#!/usr/bin/env bash
# How much of quickstart.sh's result is luck: three PPO seeds on one SFT and reward model, a second seed of the whole
# pipeline, and β 0.02, which over-optimises. Prints the rows of the README's table.
#
#   scripts/seeds.sh [--out DIR]      runs/seeds by default; run again it goes on where it stopped
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/runs/seeds
[ "${1:-}" = --out ] && { mkdir -p "$2"; out=$(cd "$2" && pwd); }

quickstart() { "$root/scripts/quickstart.sh" --no-setup "$@" > "$out/$name.txt"; }

# A folder that shares the base, SFT and reward models of seed 0, and what was measured of them.
share() {
  mkdir -p "$out/$name/eval"
  local file
  for file in base sft rm; do ln -sfn "../seed-0/$file" "$out/$name/$file"; done
  for file in "$out"/seed-0/eval/{rm,sft,references}*; do
    ln -sfn "../../seed-0/eval/$(basename "$file")" "$out/$name/eval/$(basename "$file")"
  done
}

"$root/scripts/setup.sh"
mkdir -p "$out"
folders=()
for name in seed-0 ppo-seed-1 ppo-seed-2 seed-1 beta-0.02; do
  echo "==== $name" >&2
  case $name in
    seed-*) quickstart --seed "${name#seed-}" --out "$out/$name" ;;
    ppo-seed-*) share && quickstart --ppo-seed "${name#ppo-seed-}" --out "$out/$name" ;;
    beta-*) share && quickstart --beta "${name#beta-}" --lr 5e-4 --episodes 3072 --no-ptx --out "$out/$name" ;;
  esac
  folders+=("$out/$name")
done

node "$root/scripts/quickstart-table.mjs" --markdown "${folders[@]}"
echo
grep -H '^yes \|^NO ' "${folders[@]/%/.txt}" | sed "s|^$out/||; s|\.txt:|: |"
