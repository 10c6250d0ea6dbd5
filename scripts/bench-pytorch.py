"""The shapes of `rlhf bench` in PyTorch, on the CPU or a CUDA device: JSON lines with the same names and shapes.

    python scripts/bench-pytorch.py [--device cuda] [--steps 10] [--tf32] [NAME...] > pytorch.jsonl
    rlhf bench --against pytorch.jsonl          # `ratio`: how many times as fast as PyTorch

Kernels take sizes of their own, as there: gemm_nn:1000x300x200, attention_forward:2x2048x9x64x3.

float32 throughout (matrix products in TF32 only with --tf32); eager mode with scaled_dot_product_attention and fused
AdamW where the device has it. Needs torch alone: models, decoding with a key-value cache and PPO are written out below.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

BUDGET = 10.0  # seconds of timed runs; three runs at least
BUSY = 150.0  # milliseconds of repeated runs between two waits, at least


class Block(nn.Module):
    """GPT-2's block, or Llama's with `hidden` channels in a SwiGLU MLP and rotary positions."""

    def __init__(self, width, heads, hidden=None):
        super().__init__()
        self.heads, self.llama = heads, hidden is not None
        norm = nn.RMSNorm if self.llama else nn.LayerNorm
        bias = not self.llama
        self.norm1, self.norm2 = norm(width, eps=1e-5), norm(width, eps=1e-5)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.up = nn.Linear(width, 2 * hidden if self.llama else 4 * width, bias=bias)
        self.down = nn.Linear(hidden if self.llama else 4 * width, width, bias=bias)

    def forward(self, x, rotary=None, mask=None, cache=None, at=None):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            rows = torch.arange(B, device=x.device)[:, None]
            for store, new in zip(cache, (k, v)):
                store[rows, :, at] = new.transpose(1, 2)
            k, v = cache
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.out(o.transpose(1, 2).reshape(B, T, C))
        h = self.up(self.norm2(x))
        if self.llama:
            gate, up = h.chunk(2, -1)
            return x + self.down(F.silu(gate) * up)
        return x + self.down(F.gelu(h, approximate='tanh'))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Decoder(nn.Module):
    """A decoder with its unembedding tied to the embedding, or with a scalar head."""

    def __init__(self, vocabulary, width, layers, heads, context, hidden=None, scalar=False):
        super().__init__()
        self.context, self.heads = context, heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = None if hidden else nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5) if hidden else nn.LayerNorm(width, eps=1e-5)
        self.score = nn.Linear(width, 1, bias=False) if scalar else None
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        half = width // heads // 2
        angles = torch.arange(context)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer('cos', angles.cos())
        self.register_buffer('sin', angles.sin())

    def hidden(self, ids, mask=None, caches=None, at=None):
        places = torch.arange(ids.shape[1], device=ids.device)[None] if at is None else at
        x = self.tokens(ids)
        rotary = None
        if self.positions is not None:
            x = x + self.positions(places)
        else:
            rotary = (self.cos[places][:, None], self.sin[places][:, None])
        for i, block in enumerate(self.blocks):
            x = block(x, rotary, mask, caches[i] if caches else None, at)
        return self.norm(x)

    def logits(self, h):
        return h @ self.tokens.weight.T

    def forward(self, ids):
        h = self.hidden(ids)
        return self.logits(h) if self.score is None else self.score(h)[..., 0]


def small_gpt():
    return Decoder(1024, 128, 4, 4, 128)


def gpt2():
    return Decoder(50257, 768, 12, 12, 1024)


def small_llama(scalar=False):
    return Decoder(1024, 64, 4, 4, 128, hidden=172, scalar=scalar)


def ids_of(length, row, vocabulary):
    return [(row * 7919 + t * 104729) % (vocabulary - 3) + 3 for t in range(length)]


def optimiser(parameters, lr=1e-4):
    parameters = list(parameters)
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0, fused=True)


@torch.no_grad()
def generate(model, prompts, new_tokens, device):
    """Samples at temperature 1 with a key-value cache; prompts of unequal length lie left-aligned side by side."""
    B, longest = len(prompts), max(map(len, prompts))
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=device)
    total = longest + new_tokens
    width = model.tokens.weight.shape[1]
    shape = (B, model.heads, total, width // model.heads)
    caches = [(torch.zeros(shape, device=device), torch.zeros(shape, device=device)) for _ in model.blocks]
    places = torch.arange(total, device=device)
    at = places[None, :longest].expand(B, -1)
    h = model.hidden(ids, places[None, None, None, :] <= at[:, None, :, None], caches, at)
    h = h[torch.arange(B, device=device), lengths - 1]
    drawn = []
    for step in range(new_tokens):
        token = torch.multinomial(model.logits(h).softmax(-1), 1)
        drawn.append(token)
        if step == new_tokens - 1:
            break
        at = (lengths + step)[:, None]
        h = model.hidden(token, places[None, None, None, :] <= at[:, None, :, None], caches, at)[:, 0]
    return torch.cat(drawn, 1)


def gemm(mode):
    def prepare(device, M, N, K):
        a = torch.rand(K, M, device=device).T if mode == 'tn' else torch.rand(M, K, device=device)
        b = torch.rand(N, K, device=device).T if mode == 'nt' else torch.rand(K, N, device=device)
        c = torch.empty(M, N, device=device)
        return (lambda: torch.mm(a, b, out=c)), dict(flops=2 * M * N * K, bytes=4 * (M * K + N * K + M * N), repeatable=True)
    return prepare


def attention(backward):
    def prepare(device, rows, T, heads, dim, kv_heads=None):
        grouped = dict(enable_gqa=True) if kv_heads else {}
        q, k, v = (torch.rand(rows, n, T, dim, device=device, requires_grad=backward) for n in (heads, kv_heads or heads, kv_heads or heads))
        dO = torch.rand(rows, heads, T, dim, device=device)
        forward = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, **grouped)
        counts = dict(flops=rows * heads * T * T * dim * 2 * (2.5 if backward else 1), tokens=rows * T, repeatable=True)
        if not backward:
            return forward, counts
        o = forward()
        return (lambda: torch.autograd.grad(o, (q, k, v), dO, retain_graph=True)), counts
    return prepare


def cross_entropy(device, M, C, V):
    h, w = (torch.rand(n, C, device=device, requires_grad=True) for n in (M, V))
    targets = torch.zeros(M, dtype=torch.long, device=device)
    return (lambda: torch.autograd.grad(F.cross_entropy(h @ w.T, targets), (h, w))), dict(flops=6 * M * C * V, tokens=M, repeatable=True)


def adamw(device, n):
    p = nn.Parameter(torch.rand(n, device=device))
    p.grad = torch.rand(n, device=device)
    opt = optimiser([p])

    def run():
        nn.utils.clip_grad_norm_([p], 1.0)
        opt.step()
    return run, dict(bytes=4 * 8 * n, repeatable=True)


GEMMS = ('M', 'N', 'K'), [(2048, 512, 128), (4096, 512, 512), (512, 64, 64), (512, 1024, 64), (1000, 43, 172), (64, 384, 128)], [
    (4096, 4096, 4096), (8192, 3072, 768), (8192, 768, 3072)]
ATTENTIONS = ('rows', 'T', 'heads', 'headDim', 'kvHeads'), [(16, 128, 4, 32), (32, 64, 4, 32)], [(8, 1024, 12, 64), (2, 4096, 12, 64)]
# Of each kernel: how it is prepared, what the numbers of a size are called, sizes, and sizes for GPUs.
KERNELS = {
    **{f'gemm_{mode}': (gemm(mode), *GEMMS) for mode in ('nn', 'nt', 'tn')},
    'attention_forward': (attention(False), *ATTENTIONS),
    'attention_backward': (attention(True), *ATTENTIONS),
    'cross_entropy': (cross_entropy, ('M', 'C', 'V'), [(2048, 128, 1024)], [(8192, 768, 50257)]),
    'adamw': (adamw, ('parameters',), [(2**20,)], [(2**27,)]),
}


def goes_by(case, name):
    """Whether a case is meant by a name: its own, or `gemm` for all that begin with `gemm_`."""
    return case == name or case.startswith(f'{name}_')


def kernel_case(name, size, device):
    prepare, words, _, _ = KERNELS[name]
    least = len(words) - (words[-1] == 'kvHeads')
    if not least <= len(size) <= len(words):
        sys.exit(f'{name} has no size of {len(size)} numbers: {"x".join(words)}')
    shape = dict(zip(words, size))
    if shape.get('kvHeads') == shape.get('heads'):
        shape.pop('kvHeads', None)
    return name, shape, lambda: prepare(device, *size)


def kernel_cases(device, large):
    return [kernel_case(name, size, device) for name, (_, _, small, more) in KERNELS.items() for size in small + (more if large else [])]


def sized_cases(text, device):
    name, _, size = text.partition(':')
    found = [kernel for kernel in KERNELS if goes_by(kernel, name)]
    if not found or not all(n.isdecimal() and int(n) for n in size.split('x')):
        sys.exit(f'{text}: not a size of one of {", ".join(KERNELS)}')
    return [kernel_case(kernel, tuple(map(int, size.split('x'))), device) for kernel in found]


def model_cases(device, large):
    def train(make, B, T):
        model = make().to(device)
        opt = optimiser(model.parameters())
        vocabulary, width = model.tokens.weight.shape
        ids = torch.tensor([ids_of(T, row, vocabulary) for row in range(B)], device=device)
        count = sum(p.numel() for p in model.parameters())

        def run():
            logits = model(ids)[:, :-1]
            F.cross_entropy(logits.reshape(-1, vocabulary), ids[:, 1:].reshape(-1)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
        return run, dict(tokens=B * T, flops=6 * B * T * (count + len(model.blocks) * T * width))

    def sample(make):
        model = make().to(device)
        prompts = [ids_of(24 - row % 9, row, model.tokens.weight.shape[0]) for row in range(64)]
        return (lambda: generate(model, prompts, 40, device)), dict(tokens=64 * 40)

    yield 'train_step', dict(model='gpt-0.94M', B=32, T=64), lambda: train(small_gpt, 32, 64)
    yield 'sample', dict(model='gpt-0.94M', prompts=64, new_tokens=40), lambda: sample(small_gpt)
    if large:
        yield 'train_step_gpt2', dict(model='gpt2-124M', B=8, T=1024), lambda: train(gpt2, 8, 1024)
        yield 'sample_gpt2', dict(model='gpt2-124M', prompts=64, new_tokens=40), lambda: sample(gpt2)
    shape = dict(model='llama-0.26M', episodes=64, minibatch=32, epochs=2, prompt_tokens=30, new_tokens=30)
    yield 'ppo_iteration', shape, lambda: ppo(device, **shape)


def ppo(device, episodes, minibatch, epochs, prompt_tokens, new_tokens, **_):
    """One iteration of PPO without a pretraining term: roll out, score, compare, estimate advantages, update."""
    policy, reference = small_llama().to(device), small_llama().to(device)
    reward, value = small_llama(scalar=True).to(device), small_llama(scalar=True).to(device)
    opts = [(model, optimiser(model.parameters(), 1e-5)) for model in (policy, value)]
    prompts = [ids_of(prompt_tokens, row, 1024) for row in range(episodes)]
    beta, lam, clip = 0.15, 0.95, 0.2
    first = prompt_tokens - 1

    def logprobs(model, ids):
        picked = model.hidden(ids)[:, first:-1]
        return model.logits(picked).log_softmax(-1).gather(-1, ids[:, first + 1:, None])[..., 0]

    def values(ids):
        return value(ids)[:, first:-1]

    def run():
        answers = generate(policy, prompts, new_tokens, device)
        ids = torch.cat((torch.tensor(prompts, device=device), answers), 1)
        with torch.no_grad():
            score = reward(ids)[:, -1]
            old, ref, v = logprobs(policy, ids), logprobs(reference, ids), values(ids)
            rewards = -beta * (old - ref)
            rewards[:, -1] += score
            advantages, later = torch.zeros_like(v), torch.zeros_like(score)
            for t in reversed(range(new_tokens)):
                following = v[:, t + 1] if t + 1 < new_tokens else torch.zeros_like(score)
                later = rewards[:, t] + following - v[:, t] + lam * later
                advantages[:, t] = later
            returns = advantages + v
            advantages = (advantages - advantages.mean()) / (advantages.var(unbiased=False) + 1e-8).sqrt()
        for _ in range(epochs):
            order = torch.randperm(episodes, device=device)
            for rows in order.split(minibatch):
                ratio = (logprobs(policy, ids[rows]) - old[rows]).exp()
                A = advantages[rows]
                losses = [torch.max(-A * ratio, -A * ratio.clamp(1 - clip, 1 + clip)).mean()]
                new = values(ids[rows])
                near = v[rows] + (new - v[rows]).clamp(-clip, clip)
                losses.append(0.5 * torch.max((new - returns[rows]) ** 2, (near - returns[rows]) ** 2).mean())
                for loss, (model, opt) in zip(losses, opts):
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    opt.step()
                    opt.zero_grad()

    return run, dict(tokens=episodes * (prompt_tokens + new_tokens), episodes=episodes)


def measure(name, shape, prepare, steps, device):
    def wait():
        if device.type == 'cuda':
            torch.cuda.synchronize()

    run, counts = prepare()
    repeatable = counts.pop('repeatable', False)

    def timed(repeat):
        began = time.perf_counter()
        for _ in range(repeat):
            run()
        wait()
        return (time.perf_counter() - began) * 1000

    timed(1)
    repeat = 1
    while (ms := timed(repeat)) < BUSY and repeatable and repeat < 2000:
        repeat = min(2000, math.ceil(repeat * min(8, max(1.2, 1.1 * BUSY / ms))))
    times, start = [], time.perf_counter()
    while len(times) < steps and (len(times) < 3 or time.perf_counter() - start < BUDGET):
        times.append(timed(repeat) / repeat)
    ms = statistics.median(times)
    rounded = lambda x: float(f'{x:.4g}')
    line = dict(name=name, shape=shape, ms=rounded(ms), ms_min=rounded(min(times)), ms_max=rounded(max(times)), runs=len(times))
    for count, rate, scale in (('tokens', 'tokens_per_second', 1e3), ('episodes', 'episodes_per_second', 1e3),
                               ('flops', 'gflops', 1e-6), ('bytes', 'gbytes_per_second', 1e-6)):
        if count in counts:
            line[rate] = rounded(counts[count] / ms * scale)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--threads', type=int, help='CPU threads (default: as many as there are cores)')
    parser.add_argument('--tf32', action='store_true')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high' if args.tf32 else 'highest')
    device = torch.device(args.device)
    large = device.type == 'cuda'
    adapter = torch.cuda.get_device_name(device) if large else f'CPU, {torch.get_num_threads()} threads'
    every = [*kernel_cases(device, large), *model_cases(device, large)]
    cases = [] if args.names else every
    for wanted in args.names:
        found = sized_cases(wanted, device) if ':' in wanted else [case for case in every if goes_by(case[0], wanted)]
        if not found:
            sys.exit(f'there is no {wanted}; there are {", ".join(dict.fromkeys(name for name, *_ in every))}')
        cases += found
    print(f'PyTorch {torch.__version__}, {adapter}', file=sys.stderr)
    for name, shape, prepare in cases:
        line = measure(name, shape, prepare, args.steps, device)
        print(json.dumps({**line, 'torch': torch.__version__, 'adapter': adapter}), flush=True)
        rate = next((f'{line[key]:g} {unit}' for key, unit in (('episodes_per_second', 'episodes/s'), ('tokens_per_second', 'tokens/s'),
                                                                ('gflops', 'GFLOP/s'), ('gbytes_per_second', 'GB/s')) if key in line), '')
        print(f'{name:18} {"×".join(map(str, shape.values())):26} {line["ms"]:9g} ms  {rate}', file=sys.stderr)


if __name__ == '__main__':
    main()
