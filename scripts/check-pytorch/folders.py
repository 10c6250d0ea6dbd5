"""Model folders, rows and comparisons, for the checks beside this file.

Everything here follows transformers and the published file formats; nothing is taken from the TypeScript program.
"""

import gzip
import json
import math
import os
import subprocess
import sys

os.environ['HF_HUB_OFFLINE'] = os.environ['TRANSFORMERS_OFFLINE'] = '1'
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

torch.set_num_threads(1)
DTYPE = getattr(torch, os.environ.get('CHECK_DTYPE', 'float32'))
CLI = os.environ.get('RLHF', 'node dist/cli.js').split()


# What make_golden.py keeps: for each run of the program its arguments, and what PyTorch found for it.
recorded = []


def keep(**found):
    if recorded:
        recorded[-1].update(found)


def signs(length, index):
    """±1 for places 0…length−1, the same in the test: a bit of a hash of the place."""
    hashed = torch.arange(length, dtype=torch.int64) * 40503 + index * 9973 + 12345
    return ((hashed * hashed % 2147483647 >> 13 & 1) * 2 - 1).double()


def summary(change):
    """A tensor's change: its norm and its products with eight ±1 vectors, which give a deviation's norm."""
    flat = change.flatten()
    return [float(f'{x:.9g}') for x in [flat.norm().item(), *((flat @ signs(len(flat), i)).item() for i in range(8))]]


def rlhf(*args, stdin=None, check=True):
    """Runs the program and returns what it wrote to standard output."""
    recorded.append({'args': [str(a) for a in args if a != '--quiet'], **({'stdin': stdin} if stdin else {})})
    done = subprocess.run([*CLI, *map(str, args)], input=stdin, capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f'{args}: exit {done.returncode}\n{done.stderr}')
    return done.stdout if check else done


def rows_of(path):
    opener = gzip.open if str(path).endswith('.gz') else open
    with opener(path, 'rt', encoding='utf-8') as f:
        return [json.loads(line) for line in f if line.strip()]


def causal(folder, dtype=DTYPE):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info['missing_keys'] and not info['mismatched_keys'], info
    return model.eval()


def reward_model(folder, dtype=DTYPE):
    """The classifier; its `.bias` and `.gain` are those that config.json keeps."""
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info['missing_keys'] and not info['mismatched_keys'], info
    kept = json.load(open(f'{folder}/config.json'))['rlhf']
    model.reward_bias, model.reward_gain = kept['reward_bias'], kept['reward_gain']
    return model.eval()


class Text:
    """Text to ids, as the command line's format document says: prompt and completion apart, then EOS."""

    def __init__(self, folder):
        self.tok = AutoTokenizer.from_pretrained(folder)
        self.eos = self.tok.eos_token_id
        self.bos = self.tok.bos_token_id

    def prompt(self, text):
        ids = self.tok(text)['input_ids']
        if ids and ids[-1] == self.eos and text == '':
            ids = ids[:-1]
        return ids

    def completion(self, text, finish='stop'):
        return self.tok.encode(text, add_special_tokens=False) + ([self.eos] if finish == 'stop' else [])

    def document(self, text):
        return (
            ([self.bos] if self.bos is not None else [])
            + self.tok.encode(text, add_special_tokens=False)
            + [self.eos]
        )

    def pack(self, texts, context):
        """Rows of `context` tokens as lists of segments (ids); a rest of one token is left out."""
        rows, row, used = [], [], 0
        for text in texts:
            ids = self.document(text)
            while ids:
                part, ids = ids[: context - used], ids[context - used :]
                row.append(part)
                used += len(part)
                if used == context:
                    rows.append(row)
                    row, used = [], 0
        if used > 1:
            rows.append(row)
        return rows


def logprobs(model, ids, temperature=1.0):
    """log p(x_t | x_<t) for t = 1…: [T−1], with gradient."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1] / temperature
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def hidden(model, ids):
    """Last hidden states [T,C] of a classifier's or language model's body."""
    return getattr(model, model.base_model_prefix)(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[
        0
    ]


def values_of(model, ids):
    """The scalar head at every place: [T], gain and bias applied."""
    return model.reward_gain * model.score(hidden(model, ids))[:, 0] + model.reward_bias


def adamw(model, lr, eps=1e-8, decay=0.0, betas=(0.9, 0.95)):
    """Decoupled decay on tensors of two dimensions, embeddings included."""
    named = [p for _, p in model.named_parameters()]
    groups = [
        {'params': [p for p in named if p.dim() >= 2], 'weight_decay': decay},
        {'params': [p for p in named if p.dim() < 2], 'weight_decay': 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)


def metrics_of(folder):
    return rows_of(f'{folder}/metrics.jsonl')


def norm(model):
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters() if p.grad is not None))


def compare_weights(model, before, after, label, width=None):
    """Largest deviation of one tensor's update, relative to the update's norm; prints the worst two."""
    start, ours = load_file(f'{before}/model.safetensors'), load_file(f'{after}/model.safetensors')
    theirs = {k: v.detach() for k, v in model.state_dict().items()}
    found, changes = [], {}
    for name, tensor in ours.items():
        name2 = name if name in theirs else next(k for k in theirs if k.endswith(name))
        want, got, base = theirs[name2].double(), tensor.double(), start.get(name, torch.zeros_like(tensor)).double()
        if name.endswith('c_attn.bias'):  # the key bias has no gradient but rounding's
            counted = torch.ones_like(want, dtype=torch.bool)
            third = len(want) // 3
            counted[third : 2 * third] = False
            want, got, base = want[counted], got[counted], base[counted]
        if (
            name.endswith('ln_f.bias') and 'score.weight' in ours
        ):  # it adds a constant to all rewards: no gradient either
            continue
        scale = float((want - base).norm())
        changes[name] = summary(want - base)
        found.append((float((got - want).norm()) / max(scale, 1e-30), float((got - want).abs().max()), scale, name))
    keep(
        **{
            f'changes {os.path.relpath(after, recorded[-1]["args"][recorded[-1]["args"].index("--out") + 1])}': changes
        }
    )
    found.sort(reverse=True)
    print(
        f'{label}: worst update {found[0][0]:.2e} ({found[0][3]}, largest {found[0][1]:.1e}, '
        f'update norm {found[0][2]:.2e})'
        f'; next {found[1][0]:.2e} ({found[1][3]}); median {found[len(found) // 2][0]:.1e}; {len(found)} tensors',
        flush=True,
    )
    return found[0][0]


def close(label, got, want, tolerance):
    deviation = max((abs(a - b) for a, b in zip(got, want)), default=0.0)
    ok = len(got) == len(want) and deviation <= tolerance
    print(f'{"ok  " if ok else "FAIL"} {label}: {len(want)} numbers, largest deviation {deviation:.2e}', flush=True)
    return ok
