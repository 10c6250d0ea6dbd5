#!/usr/bin/env python3
"""Load a model folder in Hugging Face transformers and compare its numbers with rlhf's, row by row.

  rlhf logprobs --model DIR < answers.jsonl | python3 scripts/check-transformers.py DIR
  rlhf score    --model DIR < answers.jsonl | python3 scripts/check-transformers.py DIR

Language models: the log-probabilities of every response token, and that the folder's tokenizer gives the same ids for prompt
(through the chat template where it is a conversation) and completion. Reward models: the reward, gain * (w.h) + bias, read by
AutoModelForSequenceClassification itself. An adapter folder (adapter_config.json) is opened by PEFT on its base model.
Prints one JSON line with the largest differences. Exit 0: all within --tolerance; 1: not; 2: the folder does not load, or
weights were missing (transformers fills these at random). Needs torch, transformers 4.57 or 5 (and peft 0.17 or newer). Nothing is downloaded.
"""
import argparse
import json
import math
import os
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def load(folder):
    """The model in float32 (head included), its kind, its tokenizer, what makes ids of completions, and bias and gain of the reward."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    adapter_path = os.path.join(folder, "adapter_config.json")
    is_adapter = os.path.exists(adapter_path) and not os.path.exists(os.path.join(folder, "model.safetensors"))
    base, reward, numbers = folder, False, {}
    if is_adapter:
        with open(adapter_path, encoding="utf-8") as file:
            adapter = json.load(file)
        base, reward = adapter["base_model_name_or_path"], adapter["task_type"] == "SEQ_CLS"
        from safetensors import safe_open
        with safe_open(os.path.join(folder, "adapter_model.safetensors"), "pt") as weights:
            numbers = json.loads((weights.metadata() or {}).get("rlhf", "{}"))
    else:
        config = AutoConfig.from_pretrained(folder)
        reward = any("SequenceClassification" in name for name in config.architectures or [])
        numbers = getattr(config, "rlhf", None) or {}
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    extra = {"num_labels": 1} if reward and is_adapter else {}
    model, info = auto.from_pretrained(base, dtype=torch.float32, output_loading_info=True, **extra)
    missing = [key for key in info["missing_keys"] if not (is_adapter and key == "score.weight")]
    missing += [str(key) for key in info["mismatched_keys"]]
    if missing:
        raise ValueError(f"weights are missing or have another shape: {missing}")
    if is_adapter:
        # The base's config may have its EOS as the padding, which transformers would not read a reward at: the rows here
        # are not padded. (A reward model of its own names another padding in its config.)
        model.config.pad_token_id = None
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, folder)
        unread = [name for name, p in model.named_parameters() if "lora_B" in name and not p.any()]
        if unread:
            print(f"adapter: {len(unread)} matrices B are zero", file=sys.stderr)
    has_tokenizer = any(os.path.exists(os.path.join(path, "tokenizer.json")) for path in (folder, base))
    where = folder if os.path.exists(os.path.join(folder, "tokenizer.json")) else base
    tokenizer = AutoTokenizer.from_pretrained(where) if has_tokenizer else None
    completion_ids = None
    if has_tokenizer:
        # As tokenizer.json has it: the LlamaTokenizer of transformers 5 puts another pre-tokenizer in its place, which
        # reads a leading space otherwise than that file and transformers 4 do.
        from tokenizers import Tokenizer
        as_stored = Tokenizer.from_file(os.path.join(where, "tokenizer.json"))
        completion_ids = lambda text: as_stored.encode(text, add_special_tokens=False).ids  # noqa: E731
    bias, gain = numbers.get("reward_bias", 0.0), numbers.get("reward_gain", 1.0)
    return model.eval(), reward, tokenizer, completion_ids, bias, gain


def prompt_ids(tokenizer, row):
    """Ids of a row's prompt: a text with the tokenizer's own BOS, or a conversation through the chat template."""
    asked = row.get("prompt", row.get("messages"))
    if isinstance(asked, str):
        return tokenizer(asked)["input_ids"]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def answers(row):
    """(completion, how it ended, what rlhf found) of each answer: (tokens, log-probabilities), or a reward."""
    several = "completions" in row
    listed = lambda name: row[name] if several else [row[name]]  # noqa: E731
    texts = listed("completions" if several else "completion")
    ends = row.get("finish_reason", "stop")
    ends = ends if isinstance(ends, list) else [ends] * len(texts)
    if "tokens" in row:
        return list(zip(texts, ends, zip(listed("tokens"), listed("logprobs"))))
    return list(zip(texts, ends, row["rewards"] if several else [row["reward"]]))


def compare(folder, lines, tolerance):
    """Compares rows (text, one JSON object a line) with what transformers has for the folder; what was found, as a dict."""
    import torch
    model, reward, tokenizer, completion_ids, bias, gain = load(folder)
    worst = compared = other_prompts = other_completions = rows = 0
    for line in lines:
        if not line.strip():
            continue
        row = json.loads(line)
        rows += 1
        for completion, end, found in answers(row):
            response = completion_ids(completion) + [tokenizer.eos_token_id] * (end == "stop") if tokenizer else None
            with torch.no_grad():
                if reward:
                    ids = prompt_ids(tokenizer, row) + response
                    wanted = [gain * float(model(input_ids=torch.tensor([ids])).logits[0, 0]) + bias]
                    found = [found]
                else:
                    tokens, found = found
                    other_completions += response is not None and response != tokens
                    ids = row["prompt_tokens"] + tokens
                    logits = model(input_ids=torch.tensor([ids])).logits[0].double()
                    first = len(row["prompt_tokens"])
                    every = torch.log_softmax(logits, -1)
                    wanted = [float(every[t - 1, ids[t]]) for t in range(first, len(ids))]
            compared += len(found)
            differences = [abs(a - b) for a, b in zip(found, wanted)]
            # A NaN is larger than nothing, so max() would pass over it.
            worst = max([worst] + [d if math.isfinite(d) else math.inf for d in differences])
            if len(found) != len(wanted):
                worst = math.inf
        if tokenizer and not reward:
            other_prompts += prompt_ids(tokenizer, row) != row["prompt_tokens"]
    ok = compared > 0 and worst <= tolerance and other_prompts + other_completions == 0
    return {"model": folder, "class": type(model).__name__, "rows": rows, "compared": compared, "largest_difference": worst,
            "prompts_with_other_ids": other_prompts, "completions_with_other_ids": other_completions, "ok": ok}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference allowed (1e-3)")
    options = parser.parse_args()
    import torch
    torch.set_num_threads(1)
    found = compare(options.model, sys.stdin, options.tolerance)
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:  # noqa: BLE001: the last line of a script
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
