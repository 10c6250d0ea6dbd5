#!/usr/bin/env python3
"""Every stage on every family of models, each folder that comes out opened by Hugging Face transformers and PEFT.

  python3 scripts/check-families.py [MODEL_DIR…] [--only NAME…] [--keep DIR]

For each model: greedy answers, train-sft, train-rm and ppo of a few steps, in full and with LoRA (ppo's on top of train-sft's,
then merged), and GGUF out and in. After each, rlhf's log-probabilities or rewards of rows that no other test has are compared with those of
transformers (AutoModelForCausalLM, AutoModelForSequenceClassification, PeftModel), and that training moved them is checked too.
Without MODEL_DIR the models are drawn at random: both key layouts of gpt2, llama with Llama 3's and with linear rotary
scaling, explicit head sizes and biases, qwen2 tied and not, in f32, f16 and bf16, whole and in shards. Folders may be given that
have no tokenizer (one is made), reward models among them.

A line a check; exit 1 where any failed. Two to four minutes on two cores without a GPU. Needs `npm run build`, and Python with
torch, transformers, peft and safetensors; a development script, no part of the product. RLHF names another program to run.
"""
import argparse
import importlib.util
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("check_transformers", os.path.join(HERE, "check-transformers.py"))
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config  # noqa: E402
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()
torch.set_num_threads(1)

RLHF = shlex.split(os.environ.get("RLHF", "node " + shlex.quote(os.path.join(HERE, "..", "dist", "cli.js"))))
# Both sides compute in float32, over rows of at most 20 tokens: what differs is the order of sums.
TOLERANCE = 1e-4
# Matrices rounded to 11 bits, through a few layers; a matrix in the wrong order changes log-probabilities by 1 and more.
HALF_TOLERANCE = 3e-2
# Training at these rates moves the numbers by 0.1 and more.
LEAST_MOVE = 1e-3

WIDE = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {**WIDE, "num_hidden_layers": 2, "max_position_embeddings": 48}
GPT2 = {**WIDE, "n_layer": 2, "n_positions": 48, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 12}

# name: config, stored type, largest shard, whether keys lack their prefix (as gpt2's have on the hub)
DRAWN = {
    "gpt2-prefixed": (GPT2Config(**GPT2, n_embd=24, n_head=3), torch.float32, None, False),
    "gpt2-hub-untied-f16": (GPT2Config(**GPT2, n_embd=20, n_head=2, n_inner=36, tie_word_embeddings=False), torch.float16, None, True),
    "llama3-rope-head-dim-bf16": (
        LlamaConfig(**LLAMA, hidden_size=24, intermediate_size=36, num_attention_heads=6, num_key_value_heads=3, head_dim=6,
                    rope_theta=20000.0, rope_scaling=LLAMA3, tie_word_embeddings=True), torch.bfloat16, None, False),
    "llama-linear-biased-sharded-f16": (
        LlamaConfig(**LLAMA, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=1,
                    rope_scaling={"rope_type": "linear", "factor": 2.5}, attention_bias=True, mlp_bias=True,
                    tie_word_embeddings=False), torch.float16, 9000, False),
    "qwen2-sharded-bf16": (
        Qwen2Config(**LLAMA, hidden_size=24, intermediate_size=40, num_attention_heads=6, num_key_value_heads=2,
                    rope_theta=1000000.0, tie_word_embeddings=False), torch.bfloat16, 9000, False),
    "qwen2-tied": (
        Qwen2Config(**LLAMA, hidden_size=32, intermediate_size=28, num_attention_heads=2, num_key_value_heads=2,
                    tie_word_embeddings=True), torch.float32, None, False),
}


def draw(folder, config, dtype, shard_bytes, bare):
    """A model of random weights, large enough that every part of it shows in the logits."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.25)
            if p.dim() == 1 and name.endswith("weight"):
                p.add_(1)
    shards = {"max_shard_size": shard_bytes} if shard_bytes else {}
    model.to(dtype).save_pretrained(folder, **shards)
    if bare:
        path = os.path.join(folder, "model.safetensors")
        tensors = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
        context = config.n_positions
        for i in range(config.n_layer):
            tensors[f"h.{i}.attn.bias"] = torch.ones(context, context).tril().view(1, 1, context, context)
        save_file(tensors, path, {"format": "pt"})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def make_tokenizer(folder, config):
    """Byte-level BPE over lower-case words, with merges up to the model's vocabulary (30 entries at least)."""
    size = config["vocab_size"]
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = ["Ġ", *map(chr, range(ord("a"), ord("z") + 1))]
    pairs = [(a, b) for a in "Ġaeiou" for b in "nrstlm"]
    tokens = (special + alphabet + [a + b for a, b in pairs])[:size]
    merges = [[a, b] for a, b in pairs if a + b in tokens]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    write_json(os.path.join(folder, "tokenizer.json"), {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": level, "decoder": level,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(special)], "post_processor": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    })
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    })


class Rows:
    """Sentences of made-up words, short enough for a context of 24 tokens."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self, letters):
        whole = "".join(self.random.choice("bcdfghaeioulmnrst ") for _ in range(letters)).strip()
        return " ".join(whole.split()) or "a"

    def pair(self):
        return {"prompt": self.text(self.random.randint(3, 8)), "completion": " " + self.text(self.random.randint(2, 9))}

    def ranking(self):
        count = self.random.randint(2, 4)
        answers = [" " + self.text(self.random.randint(2, 9)) for _ in range(count)]
        return {"prompt": self.text(6), "completions": answers, "ranks": [min(i, 2) for i in range(count)]}

    def write(self, folder):
        files = {
            "demonstrations": [self.pair() for _ in range(12)],
            "rankings": [self.ranking() for _ in range(8)],
            "prompts": [{"prompt": self.text(6)} for _ in range(8)],
            "answers": [{**self.pair(), "finish_reason": "length" if i == 2 else "stop"} for i in range(5)]
            + [{"prompt": self.text(5), "completions": [" " + self.text(n) for n in (2, 5, 9)]}],
        }
        return {name: write_rows(os.path.join(folder, f"{name}.jsonl"), rows) for name, rows in files.items()}


def rlhf(*args):
    done = subprocess.run([*RLHF, *map(str, args), "--quiet"], capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise RuntimeError(f"rlhf {args[0]} ended with {done.returncode}: {' '.join(errors)}")
    return done.stdout


class Sweep:
    """The checks of one model; `failed` counts over all of them."""

    failed = 0
    passed = 0

    def __init__(self, name, model, work, family):
        self.name, self.model = name, model
        self.targets = "c_proj,c_fc" if family == "gpt2" else "q_proj,down_proj"
        self.at = lambda part: os.path.join(work, part)
        self.rows = Rows(name).write(work)

    def report(self, stage, ok, what):
        Sweep.passed, Sweep.failed = Sweep.passed + ok, Sweep.failed + (not ok)
        print(f"{'ok  ' if ok else 'FAIL'} {self.name}: {stage}: {what}", flush=True)

    def check(self, stage, work):
        try:
            self.report(stage, *work())
        except Exception as error:  # noqa: BLE001: one failure is a line, the others are still checked
            self.report(stage, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def numbers(self, folder, command):
        return rlhf(command, "--model", folder, "--data", self.rows["answers"])

    def agrees(self, folder, command, before=None):
        """(whether transformers has the same numbers, what was found); with `before`, that they are not that folder's."""
        text = self.numbers(folder, command)
        found = reference.compare(folder, text.splitlines(), TOLERANCE)
        move = distance(text, before) if before else None
        ok = found["ok"] and (move is None or move > LEAST_MOVE)
        moved = "" if move is None else f", moved by {move:.2g}"
        kinds = "rewards" if command == "score" else "log-probabilities"
        return ok, f"{found['class']}: {found['compared']} {kinds}, largest difference {found['largest_difference']:.1e}{moved}"

    def train(self, command, out, *args):
        rlhf(command, "--out", self.at(out), "--schedule", "constant", "--overwrite", *args)
        return self.at(out)

    def sft(self, out, *args):
        return self.train("train-sft", out, "--model", self.model, "--data", self.rows["demonstrations"], "--lr", 1e-2,
                          "--batch-size", 4, "--max-steps", 3, *args)

    def rm(self, model, out, *args):
        return self.train("train-rm", out, "--model", model, "--data", self.rows["rankings"], "--lr", 1e-2, "--batch-size", 4,
                          "--max-steps", 2, *args)

    def ppo(self, policy, reward, out, *args):
        return self.train("ppo", out, "--policy", policy, "--reward", reward, "--prompts", self.rows["prompts"], "--episodes", 16,
                          "--batch-size", 8, "--minibatch-size", 4, "--max-new-tokens", 8, "--lr", 1e-2, "--value-lr", 1e-2,
                          "--warmup", 0, *args)

    def same_greedy(self, folder):
        """Whether sample --greedy (one position at a time, with a KV cache) takes the tokens that transformers takes."""
        found = [json.loads(line) for line in rlhf("sample", "--greedy", "--max-new-tokens", 12, "--model", folder, "--data",
                                                   self.rows["prompts"]).splitlines()]
        model, _, tokenizer, *_ = reference.load(folder)
        different = tokens = 0
        for row in found:
            ids = tokenizer(row["prompt"], return_tensors="pt").input_ids
            with torch.no_grad():
                new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[0, ids.shape[1]:]
            tokens += len(new)
            different += tokenizer.decode(new, skip_special_tokens=True) != row["completion"]
        return different == 0 and tokens > 0, f"{type(model).__name__}: {tokens} greedy tokens, {different} of {len(found)} answers differ"

    def language_model(self):
        base = self.numbers(self.model, "logprobs")
        self.check("as it is", lambda: self.agrees(self.model, "logprobs"))
        self.check("sample --greedy", lambda: self.same_greedy(self.model))
        for kind, extra in (("", ()), (" --lora-rank 4", ("--lora-rank", 4))):
            tag = "lora-" if extra else ""
            # An adapter of the attention, and one that has parts of both.
            targets = ("--lora-targets", self.targets) if extra else ()
            sft, rm, ppo = (self.at(tag + stage) for stage in ("sft", "rm", "ppo"))
            self.check("train-sft" + kind, lambda: self.agrees(self.sft(tag + "sft", *extra), "logprobs", base))
            self.check("train-rm" + kind, lambda: self.agrees(self.rm(sft, tag + "rm", *extra, *targets), "score"))
            tuned = self.numbers(sft, "logprobs")
            self.check("ppo" + kind, lambda: self.agrees(self.ppo(sft, rm, tag + "ppo", *extra), "logprobs", tuned))
            self.check("ppo's value model" + kind, lambda: self.agrees(os.path.join(ppo, "value"), "score", self.numbers(rm, "score")))
        self.check("sample --greedy with the adapter", lambda: self.same_greedy(self.at("lora-ppo")))
        self.check("export --merge", self.merged)
        self.check("export --gguf f16, import", self.gguf)

    def merged(self):
        out = self.at("merged")
        rlhf("export", self.at("lora-ppo"), "--merge", "--out", out)
        ok, what = self.agrees(out, "logprobs")
        apart = distance(self.numbers(out, "logprobs"), self.numbers(self.at("lora-ppo"), "logprobs"))
        return ok and apart <= TOLERANCE, f"{what}; from the adapter {apart:.1e}"

    def gguf(self):
        file, out = self.at("ppo.gguf"), self.at("imported")
        rlhf("export", self.at("ppo"), "--gguf", "f16", "--out", file)
        rlhf("import", file, "--out", out)
        ok, what = self.agrees(out, "logprobs")
        apart = distance(self.numbers(out, "logprobs"), self.numbers(self.at("ppo"), "logprobs"))
        return ok and apart <= HALF_TOLERANCE, f"{what}; from the policy {apart:.1e}"

    def reward_model(self):
        before = self.numbers(self.model, "score")
        self.check("as it is", lambda: self.agrees(self.model, "score"))
        self.check("train-rm", lambda: self.agrees(self.rm(self.model, "rm"), "score", before))
        self.check("train-rm --lora-rank 4", lambda: self.agrees(self.rm(self.model, "lora-rm", "--lora-rank", 4), "score", before))


def distance(one, other):
    """The largest difference between two outputs of logprobs or score for the same rows."""
    def flat(value):
        return [x for item in value for x in flat(item)] if isinstance(value, list) else [value]

    def numbers(text):
        rows = [json.loads(line) for line in text.splitlines()]
        return flat([row.get("logprobs", row.get("rewards", row.get("reward"))) for row in rows])

    pairs = list(zip(numbers(one), numbers(other), strict=True))
    return max(abs(a - b) for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL_DIR")
    parser.add_argument("--only", nargs="+", choices=list(DRAWN), help="of the models drawn at random, these")
    parser.add_argument("--keep", metavar="DIR", help="write into this folder and leave it")
    options = parser.parse_args()
    work = os.path.abspath(options.keep) if options.keep else tempfile.mkdtemp(prefix="rlhf-families-")
    try:
        names = options.only or ([] if options.models else list(DRAWN))
        for name, source in [(n, None) for n in names] + [(os.path.basename(os.path.abspath(m)), m) for m in options.models]:
            own = os.path.join(work, name)
            model = os.path.join(own, "model")
            os.makedirs(own, exist_ok=True)
            if source is None:
                draw(model, *DRAWN[name])
            else:
                shutil.copytree(source, model, dirs_exist_ok=True)
            with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
                config = json.load(file)
            if not os.path.exists(os.path.join(model, "tokenizer.json")):
                make_tokenizer(model, config)
            sweep = Sweep(name, model, own, config["model_type"])
            is_reward = any("SequenceClassification" in a for a in config.get("architectures") or [])
            (sweep.reward_model if is_reward else sweep.language_model)()
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{Sweep.passed} passed, {Sweep.failed} failed")
    return 1 if Sweep.failed or not Sweep.passed else 0


if __name__ == "__main__":
    sys.exit(main())
