"""Eight `rlhf train-rm` steps against PyTorch's AdamW, weight by weight: K from 2 to 9 mixed, ties, margins, --k draws.

    python scripts/check-pytorch/reward.py MODEL WORK_DIR DEMONSTRATIONS.jsonl [CASE…]

The head of a new reward model is drawn by the program: a first run at rate 0 writes it, the others go on from there.
"""

import itertools
import json
import math
import os
import random
import shutil
import sys
import torch
from folders import Text, adamw, compare_weights, hidden, keep, metrics_of, norm, reward_model, rlhf, rows_of

LR, BATCH = 1e-3, 4


def write(path, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.writelines(json.dumps(r) + '\n' for r in rows)
    return path


def rankings(demos, seed):
    draw = random.Random(seed)
    rows = []
    for i, d in enumerate(demos):
        k = 2 + i % 8
        # All different: where two answers are the same text, gradients that cancel leave rounding for Adam to blow up.
        texts = [d['completion'][: 3 + 2 * n] for n in draw.sample(range(k + 4), k)]
        if i % 5 == 4:
            rows.append(
                {
                    'prompt': d['prompt'],
                    'chosen': texts[0],
                    'rejected': texts[1],
                    **({'margin': 0.5 + i / 10} if i % 2 else {}),
                }
            )
        else:
            ranks = (
                [draw.choice([1, 2, 3, -4.5, 1e9]) for _ in range(k)] if i % 3 else draw.sample(range(1, k + 1), k)
            )
            rows.append({'prompt': d['prompt'], 'completions': texts, 'ranks': [7] * k if i == 6 else ranks})
    return rows


def ids_of(text, row):
    texts = row['completions'] if 'completions' in row else [row['chosen'], row['rejected']]
    ranks = row['ranks'] if 'ranks' in row else [1, 2]
    return [text.prompt(row['prompt']) + text.completion(t) for t in texts], ranks, row.get('margin', 0.0)


def raw_scores(model, rows):
    return torch.stack([model.score(hidden(model, ids)[-1])[0] * model.reward_gain for ids in rows])


def prompt_loss(scores, ranks, margin):
    pairs = [(w, l) for w in range(len(ranks)) for l in range(len(ranks)) if ranks[w] < ranks[l]]
    if not pairs:
        return None
    return sum(torch.nn.functional.softplus(scores[l] - scores[w] + margin) for w, l in pairs) / len(pairs)


def start_folder(model_dir, work, data):
    out = f'{work}/start-reward'
    shutil.rmtree(out, ignore_errors=True)
    rlhf('train-rm', '--model', model_dir, '--data', data, '--out', out, '--max-steps', 0, '--quiet', '--seed', 3)
    head = reward_model(out).score.weight.detach()[0]
    width = len(head)
    print(f'new head: mean {head.mean():+.3f}, deviation {head.std():.4f}; 1/√(C+1) = {1 / math.sqrt(width + 1):.4f}')
    return out


def check(name, start, work, rows, flags=(), eps=1e-8, decay=0.0, held_out=None, demos=None, bound=1e-2):
    data, out = write(f'{work}/{name}.jsonl', rows), f'{work}/{name}'
    shutil.rmtree(out, ignore_errors=True)
    more = ['--eval-data', write(f'{work}/{name}-held-out.jsonl', held_out)] if held_out else []
    more += ['--demonstrations', write(f'{work}/{name}-demos.jsonl', demos)] if demos else []
    rlhf(
        'train-rm',
        '--model',
        start,
        '--data',
        data,
        '--out',
        out,
        '--no-shuffle',
        '--schedule',
        'constant',
        '--lr',
        LR,
        '--batch-size',
        BATCH,
        '--max-steps',
        8,
        '--epochs',
        2,
        '--weight-decay',
        decay,
        '--eval-every',
        8,
        '--adam-eps',
        eps,
        '--quiet',
        *more,
        *flags,
    )
    text, model = Text(start), reward_model(start)
    items = [ids_of(text, r) for r in rows]
    batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
    optimizer, log, worst, kept = adamw(model, LR, eps, decay), metrics_of(out), 0.0, []
    for step in range(8):
        batch = batches[step % len(batches)]
        scored = [(raw_scores(model, ids), ranks, margin) for ids, ranks, margin in batch]
        losses = [x for x in (prompt_loss(*s) for s in scored) if x is not None]
        loss = sum(losses) / len(losses)
        optimizer.zero_grad()
        loss.backward()
        found = norm(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        differences = [
            (s[w] - s[l]).item()
            for s, ranks, _ in scored
            for w in range(len(ranks))
            for l in range(len(ranks))
            if ranks[w] < ranks[l]
        ]
        mean_reward = torch.cat([s for s, _, _ in scored]).mean().item() + model.reward_bias
        kept.append(loss.item())
        wanted = {
            'loss': loss.item(),
            'grad_norm': found,
            'accuracy': sum(d > 0 for d in differences) / len(differences),
            'margin': sum(differences) / len(differences),
            'mean_reward': mean_reward,
        }
        for key, value in wanted.items():
            off = abs(log[step][key] - value) / max(1e-2, abs(value))
            if off > 1e-4 and key != 'mean_reward':
                print(f'     step {step + 1}: {key} is {log[step][key]}, PyTorch has {value}')
            # A constant added to all rewards has no gradient (ln_f.bias moves by rounding alone): the mean is looser.
            worst = max(worst, off / 10 if key == 'mean_reward' else off)
    keep(loss=kept)
    ok = compare_weights(model, start, out, name) < bound and worst < 1e-4
    with torch.no_grad():
        if held_out:
            scored = [
                (raw_scores(model, ids), ranks, margin) for ids, ranks, margin in (ids_of(text, r) for r in held_out)
            ]
            losses = [x.item() for x in (prompt_loss(*s) for s in scored) if x is not None]
            off = abs(log[7]['eval_loss'] - sum(losses) / len(losses))
            print(f'     eval_loss off by {off:.1e}')
            ok &= off < 1e-4
        ended = reward_model(out)
        if demos:
            standard = [text.prompt(d['prompt']) + text.completion(d['completion']) for d in demos]
        else:
            standard = [
                ids for responses, ranks, _ in items for ids, rank in zip(responses, ranks) if rank == min(ranks)
            ]
        mean = float(raw_scores(ended, standard).mean()) + ended.reward_bias
        print(f'     mean reward of the standard answers {mean:+.1e}')
        ok &= abs(mean) < 1e-5
    print(f'{"ok  " if ok else "FAIL"} {name}: metrics within {worst:.1e}')
    return ok


def draws(name, start, work, demos):
    """--k 4: at a rate of 0 each step's loss must be that of one four-response subset, a new one each epoch."""
    texts = ['yes', 'No.', 'the food', 'A pub in town', '5 of 5', 'Children may come']
    row = {'prompt': demos[0]['prompt'], 'completions': texts, 'ranks': [3, 1, 2, 5, 4, 6]}
    out = f'{work}/{name}'
    shutil.rmtree(out, ignore_errors=True)
    rlhf(
        'train-rm',
        '--model',
        start,
        '--data',
        write(f'{work}/{name}.jsonl', [row]),
        '--out',
        out,
        '--lr',
        0,
        '--k',
        4,
        '--epochs',
        60,
        '--quiet',
    )
    model = reward_model(start)
    ids, ranks, _ = ids_of(Text(start), row)
    with torch.no_grad():
        scores = raw_scores(model, ids)
        possible = {
            s: prompt_loss(scores[list(s)], [ranks[i] for i in s], 0.0).item()
            for s in itertools.combinations(range(6), 4)
        }
    seen, worst = {}, 0.0
    for m in metrics_of(out):
        subset = min(possible, key=lambda s: abs(possible[s] - m['loss']))
        worst = max(worst, abs(possible[subset] - m['loss']))
        seen[subset] = seen.get(subset, 0) + 1
    chi = sum((seen.get(s, 0) - 4) ** 2 / 4 for s in possible)
    ok = worst < 1e-6 and chi < 36.1  # chi-square, 14 degrees of freedom, p = 0.001
    print(
        f'{"ok  " if ok else "FAIL"} {name}: losses within {worst:.1e}; {len(seen)} of 15 subsets, chi-square {chi:.1f}'
    )
    return ok


def main(model_dir, work, demonstrations, *only):
    demos = rows_of(demonstrations)
    rows, held_out = rankings(demos[:27], 1), rankings(demos[30:40], 2)
    start = start_folder(model_dir, work, write(f'{work}/start.jsonl', rows))
    cases = {
        'mixed': lambda n: check(n, start, work, rows, held_out=held_out),
        'decay': lambda n: check(
            n, start, work, rows, ['--micro-batch-tokens', 200], eps=1e-5, bound=1e-3, decay=0.1, demos=demos[50:60]
        ),
        'draws': lambda n: draws(n, start, work, demos),
    }
    return 0 if all([run(name) for name, run in cases.items() if not only or name in only]) else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
