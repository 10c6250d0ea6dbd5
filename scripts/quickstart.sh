#!/usr/bin/env bash
# The whole pipeline on the bundled restaurant data, with what people said of it: a base model, supervised fine-tuning,
# a reward model from human rankings, PPO without and with the pretraining term, and an evaluation by a metric that no
# model has seen. Every step is one rlhf command; the rows go through pipes.
#
#   scripts/quickstart.sh [--fast] [--seed N] [--ppo-seed N] [--out DIR] [--beta B] [--episodes N] [--lr R]
#                         [--no-setup]
#
# Run again it goes on where it stopped. --fast: no pretraining, fewer epochs and episodes, γ = 0 only. --no-ptx: γ = 0
# only. --out is runs/quickstart by default.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
here=$PWD

fast='' seed=0 ppo_seed='' out='' beta=0.15 lr='' episodes='' ptx=yes setup=yes
while [ $# -gt 0 ]; do
  case $1 in
    --fast) fast=yes ;;
    --no-ptx) ptx= ;;
    --no-setup) setup= ;;
    --seed | --ppo-seed | --out | --beta | --episodes | --lr)
      [ $# -ge 2 ] || { echo "quickstart: $1 needs a value" >&2; exit 2; }
      name=${1#--}
      declare "${name//-/_}=$2"
      shift
      ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    *) echo "quickstart: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
case ${out:-} in
  '') out=$root/runs/quickstart ;;
  /*) ;;
  *) out=$here/$out ;;
esac
[ "$fast" ] && ptx=
episodes=${episodes:-$([ "$fast" ] && echo 1024 || echo 2048)}

[ "$setup" ] && "$root/scripts/setup.sh"
export PATH="$root/build/bin:$PATH"
restaurants=$root/datasets/restaurants
prose=$root/datasets/prose
slot_error="node $root/scripts/slot-error.mjs"
mkdir -p "$out/eval"
cd "$out"
. "$root/scripts/steps.sh"

answers() { rlhf sample --model "$1" --batch-size 64 --max-new-tokens 56 --seed "$seed" "${@:2}" < "$restaurants/dev-prompts.jsonl"; }
scored() { answers "$@" | rlhf score --model rm; }
best_of() { node "$root/scripts/best-of-n.mjs" "$1" < "$2"; }

# --- Training ---

say 'base model: a Llama block with 263,744 parameters and its tokenizer, from prose'
train pretrain --data "$prose/train.jsonl.gz" --tokenizer-data "$prose/vocabulary.jsonl.gz" --vocab-size 1024 \
  --arch llama --layers 4 --width 64 --heads 4 --hidden 172 --context 128 \
  --lr 2e-3 --batch-size 16 ${fast:+--max-steps 1} --seed "$seed" --out base

say 'step 1: supervised fine-tuning on 6,000 demonstrations'
mix=()
[ "$fast" ] || mix=(--pretrain "$prose/train.jsonl.gz" --pretrain-fraction 0.075 --pretrain-weight 0.5)
train train-sft --model base --data "$restaurants/demonstrations.jsonl.gz" ${mix[@]+"${mix[@]}"} \
  --epochs "$([ "$fast" ] && echo 4 || echo 6)" --batch-size 8 --lr 3e-3 --warmup 20 --weight-decay 0.01 \
  --save-every 500 --seed "$seed" --out sft

most=$([ "$fast" ] && echo 4 || echo 16)
say "step 2: a reward model from 450 human rankings of 5 to 14 answers; beside it, $most answers of the SFT model to each of 547 other prompts"
beside sft-answers into "eval/sft-k$most-answers.jsonl" answers sft --k "$most"
train train-rm --model sft --data "$restaurants/rankings.jsonl" --eval-data "$restaurants/rankings-held-out.jsonl" \
  --demonstrations "$restaurants/demonstrations.jsonl.gz" \
  --epochs "$([ "$fast" ] && echo 2 || echo 3)" --batch-size 8 --lr 1e-3 --seed "$seed" --out rm
joined

# ppo RATE OPTION… The policy kept is the moving average of the last fifty updates or so: a single one wanders, and its greedy answers
# drop now this fact, now that.
ppo() {
  local rate=${lr:-$1}
  shift
  train ppo --policy sft --reward rm --prompts "$restaurants/prompts.jsonl" \
    --beta "$beta" --episodes "$episodes" --batch-size 64 --minibatch-size 32 --epochs 2 --lr "$rate" --value-lr 5e-4 --ema 0.98 \
    --warmup 10 --max-new-tokens 56 --save-every 8 --seed "${ppo_seed:-$seed}" "$@"
}

# --- Evaluation on 547 prompts that no stage has seen ---

evaluate() {
  local policy=$1
  say "evaluation: $policy, greedy and sampled answers, KL to the SFT model, loss on prose"
  into "eval/$policy-greedy.jsonl" scored "$policy" --greedy
  into "eval/$policy-sampled.jsonl" scored "$policy"
  into "eval/$policy-logprobs.jsonl" rlhf logprobs --model "$policy" --data "eval/$policy-sampled.jsonl"
  into "eval/$policy-logprobs-sft.jsonl" rlhf logprobs --model sft --data "eval/$policy-sampled.jsonl"
  into "eval/$policy-prose.jsonl" rlhf eval perplexity --model "$policy" --data "$prose/held-out.jsonl.gz"
}

with_pretraining() {
  # The pretraining gradient is the larger one and shares the step: a higher rate, so that the reward keeps its part, and 8 rows
  # a minibatch, so that its noise does not wear down what SFT taught.
  ppo 3e-4 --gamma 1 --pretrain "$prose/train.jsonl.gz" --pretrain-batch 8 --out ppo-ptx
  evaluate ppo-ptx
}

say "step 3: PPO, $episodes episodes, β $beta, γ 0"
policies=(sft ppo)
if [ "$ptx" ]; then
  say 'beside it, with the pretraining term: γ 1, 1,024 tokens a minibatch (ppo-ptx.log)'
  policies+=(ppo-ptx)
  beside ppo-ptx with_pretraining
else
  beside eval evaluate sft
fi
ppo 2.5e-4 --out ppo
evaluate ppo
joined

beside eval evaluate sft
say 'evaluation: the reward model on 50 held-out rankings'
into eval/rm.jsonl rlhf eval rm --model rm --data "$restaurants/rankings-held-out.jsonl"
into eval/rm-held-out.jsonl rlhf score --model rm --data "$restaurants/rankings-held-out.jsonl"

say "evaluation: the best of up to $most answers of the SFT model"
into "eval/sft-k$most.jsonl" rlhf score --model rm --data "eval/sft-k$most-answers.jsonl"
for n in 4 16; do
  [ "$n" -gt "$most" ] || into "eval/sft-best-of-$n.jsonl" best_of "$n" "eval/sft-k$most.jsonl"
done
into eval/references.jsonl gzip -dc "$restaurants/dev-references.jsonl.gz"
joined

# --- Closing table, answers side by side, the page ---

say 'results'
samples=()
for policy in "${policies[@]}"; do samples+=(--samples "eval/$policy-greedy.jsonl"); done
for policy in "${policies[@]:1}"; do
  $slot_error --against eval/sft-greedy.jsonl "eval/$policy-greedy.jsonl" > "eval/$policy-against-sft.json"
done
node "$root/scripts/quickstart-table.mjs" . --json table.json
rlhf report base rm "${policies[@]}" --table table.json "${samples[@]}" --out report.html > /dev/null
printf '\nreport: %s\ntook %s s\n' "$out/report.html" "$(($(date +%s) - began))"
