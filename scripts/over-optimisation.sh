#!/usr/bin/env bash
# Over-optimisation of a learnt reward (Gao et al. 2022, arXiv:2210.10760): as the policy moves away from the SFT model,
# the reward model's score climbs on while the gold metric, slot error, turns. Best-of-n and PPO at a small β, against
# the root of the KL divergence. Takes the models of a quickstart.sh folder.
#
#   scripts/over-optimisation.sh [DIR]      runs/quickstart by default; writes DIR/over-optimisation.html and .json
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/scripts/setup.sh"
export PATH="$root/build/bin:$PATH"
cd "${1:-$root/runs/quickstart}"

rlhf ppo --policy sft --reward rm --prompts "$root/datasets/restaurants/prompts.jsonl" \
  --beta 0.02 --episodes 3072 --batch-size 64 --minibatch-size 32 --epochs 2 --lr 5e-4 --value-lr 5e-4 --warmup 10 \
  --max-new-tokens 56 --save-every 8 --save-rollouts --out over-optimised --resume > /dev/null

if [ ! -s eval/sft-k64.jsonl ]; then
  head -n 100 "$root/datasets/restaurants/dev-prompts.jsonl" |
    rlhf sample --model sft --k 64 --max-new-tokens 56 |
    rlhf score --model rm > eval/sft-k64.jsonl.part
  mv eval/sft-k64.jsonl.part eval/sft-k64.jsonl
fi

node "$root/scripts/over-optimisation.mjs" --rollouts over-optimised/rollouts --best-of eval/sft-k64.jsonl \
  --out over-optimisation
