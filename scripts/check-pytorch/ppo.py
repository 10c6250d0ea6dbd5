"""`rlhf ppo --save-rollouts --no-shuffle` computed again in PyTorch: rollouts, advantages, updated weights.

    python scripts/check-pytorch/ppo.py POLICY REWARD_MODEL WORK_DIR PROMPTS.jsonl TEXT.jsonl [CASE…]

Formulas: Ouyang et al. 2022, section 3.5 and appendix C.4; Schulman et al. 2015 (GAE) and 2017 (the clipped objective).
"""

import filecmp
import math
import shutil
import sys
import torch
from folders import (
    AutoModelForSequenceClassification,
    Text,
    adamw,
    causal,
    close,
    compare_weights,
    keep,
    logprobs,
    metrics_of,
    norm,
    reward_model,
    rlhf,
    rows_of,
    values_of,
)

CONTEXT, BATCH, MINI, NEW = 128, 12, 5, 16
# A reward program: a tenth of the characters.
PROGRAM = "jq -c '{reward: ((.completion | length) / 10)}'"


def response_logprobs(model, row, temperature):
    ids, start = row['prompt_tokens'] + row['tokens'], len(row['prompt_tokens'])
    return logprobs(model, ids, temperature)[start - 1 :]


def response_values(model, row):
    ids, start = row['prompt_tokens'] + row['tokens'], len(row['prompt_tokens'])
    return values_of(model, ids)[start - 1 : -1]


def rounded(values):
    return [float(f'{x:.7g}') for x in values]


def flat(rows, key):
    return [x for r in rows for x in r[key]]


def whiten(values, keep_mean=False):
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / len(values)
    return [(x - mean) / math.sqrt(variance + 1e-8) + (mean if keep_mean else 0.0) for x in values]


def check_estimates(name, rows, beta, gae_lambda, discount, whiten_rewards):
    rewards = []
    for r in rows:
        own = [-beta * (p - q) for p, q in zip(r['logprobs'], r['ref_logprobs'])]
        own[-1] += r['score']
        rewards.append(own)
    if whiten_rewards:
        white = iter(whiten([x for own in rewards for x in own], keep_mean=True))
        rewards = [[next(white) for _ in own] for own in rewards]
    advantages, returns = [], []
    for r, own in zip(rows, rewards):
        after, ahead, found = 0.0, 0.0, []
        for reward, value in reversed(list(zip(own, r['values']))):
            after = reward + discount * ahead - value + discount * gae_lambda * after
            ahead = value
            found.append(after)
        advantages.append(found[::-1])
        returns += [a + v for a, v in zip(found[::-1], r['values'])]
    ok = close(f'{name} rewards', flat(rows, 'rewards'), [x for own in rewards for x in own], 2e-5)
    ok &= close(f'{name} returns', flat(rows, 'returns'), returns, 2e-5)
    return ok & close(
        f'{name} advantages', flat(rows, 'advantages'), whiten([a for own in advantages for a in own]), 5e-5
    )


def zero_head(policy_dir, folder):
    """The value model beside a reward program: the policy's body with a head of zeros."""
    model = AutoModelForSequenceClassification.from_pretrained(policy_dir, num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    model.config.rlhf = {'reward_bias': 0.0, 'reward_gain': 1.0}
    model.save_pretrained(folder)


def check(
    name,
    policy_dir,
    reward_dir,
    work,
    prompts,
    texts,
    flags=(),
    beta=0.05,
    gae_lambda=0.95,
    discount=1.0,
    gamma=0.0,
    temperature=1.0,
    epochs=1,
    lr=1e-3,
    value_lr=2e-3,
    decay=0.0,
    penalty=1.0,
    whiten_rewards=False,
    iterations=2,
    ema=0.0,
    target_kl=None,
    command=None,
):
    out = f'{work}/{name}'
    shutil.rmtree(out, ignore_errors=True)
    more = ['--pretrain', texts, '--pretrain-batch', 3, '--gamma', gamma] if gamma else []
    more += ['--whiten-rewards'] if whiten_rewards else []
    more += ['--target-kl', target_kl, '--horizon', 50] if target_kl else []
    rlhf(
        'ppo',
        '--policy',
        policy_dir,
        '--reward',
        f'cmd:{command}' if command else reward_dir,
        '--prompts',
        prompts,
        '--out',
        out,
        '--no-shuffle',
        '--save-rollouts',
        '--episodes',
        BATCH * 4,
        '--schedule',
        'constant',
        '--warmup',
        4,
        '--lr',
        lr,
        '--value-lr',
        value_lr,
        '--batch-size',
        BATCH,
        '--minibatch-size',
        MINI,
        '--epochs',
        epochs,
        '--max-new-tokens',
        NEW,
        '--beta',
        beta,
        '--gae-lambda',
        gae_lambda,
        '--discount',
        discount,
        '--temperature',
        temperature,
        '--weight-decay',
        decay,
        '--missing-eos-penalty',
        penalty,
        '--ema',
        ema,
        '--max-steps',
        iterations,
        '--quiet',
        *more,
        *flags,
    )
    text = Text(policy_dir)
    policy, reference = causal(policy_dir), causal(policy_dir)
    judge = None if command else reward_model(reward_dir)
    start = f'{work}/value-start' if command else reward_dir
    if command:
        zero_head(policy_dir, start)
    value = reward_model(start)
    pool = text.pack([r['text'] for r in rows_of(texts)], CONTEXT)
    optimizers = {'policy': adamw(policy, lr, 1e-5, decay), 'value': adamw(value, value_lr, 1e-5, decay)}
    average = {k: v.detach().clone() for k, v in policy.state_dict().items()}
    given, log, ok, taken, episodes = rows_of(prompts), metrics_of(out), True, 0, []
    for iteration in range(iterations):
        rows = rows_of(f'{out}/rollouts/step-{iteration + 1:06d}.jsonl')
        label = f'{name} {iteration + 1}'
        assert len(rows) == BATCH
        with torch.no_grad():
            for i, r in enumerate(rows):
                assert r['prompt'] == given[(iteration * BATCH + i) % len(given)]['prompt']
                assert r['prompt_tokens'] == text.prompt(r['prompt'])
                assert len(r['tokens']) == NEW or r['tokens'][-1] == text.eos
                body = r['tokens'][:-1] if r['tokens'][-1] == text.eos else r['tokens']
                assert r['completion'] == text.tok.decode(body, skip_special_tokens=True), (
                    r['completion'],
                    text.tok.decode(body),
                )
            # From the second iteration on, each side has the weights that its own updates left.
            slack = 2e-4 if iteration == 0 else 1e-3
            own = [response_logprobs(policy, r, temperature).tolist() for r in rows]
            worth = [response_values(value, r).tolist() for r in rows]
            ok &= close(f'{label} logprobs', flat(rows, 'logprobs'), [x for o in own for x in o], slack)
            ok &= close(
                f'{label} ref_logprobs',
                flat(rows, 'ref_logprobs'),
                [x for r in rows for x in response_logprobs(reference, r, temperature).tolist()],
                2e-4,
            )
            ok &= close(f'{label} values', flat(rows, 'values'), [x for o in worth for x in o], slack)
            short = [penalty if r['tokens'][-1] != text.eos else 0.0 for r in rows]
            want = [
                (
                    float(len(r['completion'])) / 10
                    if command
                    else values_of(judge, r['prompt_tokens'] + r['tokens'])[-1].item()
                )
                for r in rows
            ]
            ok &= close(f'{label} score', [r['score'] for r in rows], [x - p for x, p in zip(want, short)], 2e-4)
            episodes.append(
                [
                    {'tokens': r['tokens'], 'logprobs': rounded(o), 'values': rounded(v), 'score': x - p}
                    for r, o, v, x, p in zip(rows, own, worth, want, short)
                ]
            )
        used_beta = log[iteration]['objective/kl_coef']
        ok &= close(f'{label} beta', [used_beta], [beta], 1e-7)
        ok &= check_estimates(label, rows, beta, gae_lambda, discount, whiten_rewards)
        kl = sum(sum(r['logprobs']) - sum(r['ref_logprobs']) for r in rows) / BATCH
        k3 = sum(math.exp(q - p) - 1 + p - q for r in rows for p, q in zip(r['logprobs'], r['ref_logprobs'])) / BATCH
        m = log[iteration]
        ok &= close(
            f'{label} metrics',
            [
                m['objective/kl'],
                m['objective/kl_k3'],
                m['objective/scores'],
                m['response_length/mean'],
                m['frac_eos'],
            ],
            [
                kl,
                k3,
                sum(r['score'] for r in rows) / BATCH,
                sum(len(r['tokens']) for r in rows) / BATCH,
                sum(r['tokens'][-1] == text.eos for r in rows) / BATCH,
            ],
            2e-5,
        )
        if iteration == 0:
            first = kl == 0 and all(r['logprobs'] == r['ref_logprobs'] for r in rows) and m['objective/kl'] == 0
            ok &= first
            print(f'{"ok  " if first else "FAIL"} {label} KL of the first step is exactly 0')
        rate = min(1.0, 0.1 + 0.9 * iteration / 4)
        for group in optimizers['policy'].param_groups:
            group['lr'] = lr * rate
        for group in optimizers['value'].param_groups:
            group['lr'] = value_lr * rate
        seen = {
            'policy': [],
            'value': [],
            'ptx': [],
            'policy norm': [],
            'ptx norm': [],
            'value norm': [],
            'approxkl': [],
        }
        for _ in range(epochs):
            for begin in range(0, BATCH, MINI):
                part = rows[begin : begin + MINI]
                count = sum(len(r['tokens']) for r in part)
                policy.zero_grad()
                losses, kls = [], []
                for r in part:
                    new, old, a = (
                        response_logprobs(policy, r, temperature),
                        torch.tensor(r['logprobs']),
                        torch.tensor(r['advantages']),
                    )
                    ratio = (new - old).exp()
                    losses.append(torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2)).sum())
                    kls.append((0.5 * (new - old) ** 2).sum().item())
                loss = sum(losses) / count
                loss.backward()
                seen['policy'].append(loss.item())
                seen['approxkl'].append(sum(kls) / count)
                seen['policy norm'].append(norm(policy))
                if gamma:
                    own = [p.grad.clone() for p in policy.parameters()]
                    policy.zero_grad()
                    segments = [s for i in range(3) for s in pool[(taken * 3 + i) % len(pool)] if len(s) > 1]
                    ptx = -sum(logprobs(policy, s).sum() for s in segments) / sum(len(s) - 1 for s in segments)
                    (gamma * ptx).backward()
                    seen['ptx'].append(ptx.item())
                    seen['ptx norm'].append(norm(policy))
                    for p, g in zip(policy.parameters(), own):
                        p.grad += g
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimizers['policy'].step()
                taken += 1
                for k, v in policy.state_dict().items():
                    average[k] += (1 - ema) * (v - average[k])
                value.zero_grad()
                losses = []
                for r in part:
                    new, old, target = (
                        response_values(value, r),
                        torch.tensor(r['values']),
                        torch.tensor(r['returns']),
                    )
                    clipped = old + (new - old).clamp(-0.2, 0.2)
                    losses.append(0.5 * torch.maximum((new - target) ** 2, (clipped - target) ** 2).sum())
                loss = sum(losses) / count
                loss.backward()
                seen['value'].append(loss.item())
                seen['value norm'].append(norm(value))
                torch.nn.utils.clip_grad_norm_(value.parameters(), 1.0)
                optimizers['value'].step()
        names = {
            'policy': 'loss/policy_avg',
            'value': 'loss/value_avg',
            'ptx': 'loss/ptx',
            'policy norm': 'grad_norm/policy',
            'ptx norm': 'grad_norm/ptx',
            'value norm': 'grad_norm/value',
            'approxkl': 'policy/approxkl_avg',
        }
        there = [k for k in names if seen[k]]
        mean = {k: sum(seen[k]) / len(seen[k]) for k in there}
        ok &= close(
            f'{label} update',
            [m[names[k]] / max(0.1, abs(mean[k])) for k in there],
            [mean[k] / max(0.1, abs(mean[k])) for k in there],
            1e-3,
        )
        if target_kl:
            beta *= 1 + max(-0.2, min(0.2, kl / target_kl - 1)) * BATCH / 50
    keep(episodes=episodes)
    if ema:
        ok &= compare_weights(policy, policy_dir, f'{out}/raw', f'{name} raw policy') < 1e-2
        policy.load_state_dict(average)
    ok &= compare_weights(policy, policy_dir, out, f'{name} policy') < 1e-2
    ok &= compare_weights(value, start, f'{out}/value', f'{name} value') < 1e-2
    return ok


def same_without_pretraining(name, policy, reward, work, prompts, texts):
    """γ 0 with pretraining text equals no text, bit for bit."""
    for out, more in ((f'{work}/{name}-a', []), (f'{work}/{name}-b', ['--pretrain', texts, '--gamma', 0])):
        shutil.rmtree(out, ignore_errors=True)
        rlhf(
            'ppo',
            '--policy',
            policy,
            '--reward',
            reward,
            '--prompts',
            prompts,
            '--out',
            out,
            '--batch-size',
            8,
            '--minibatch-size',
            4,
            '--max-new-tokens',
            8,
            '--lr',
            1e-3,
            '--max-steps',
            2,
            '--quiet',
            *more,
        )
    ok = all(
        filecmp.cmp(f'{work}/{name}-a/{f}', f'{work}/{name}-b/{f}', shallow=False)
        for f in ('model.safetensors', 'value/model.safetensors')
    )
    print(f'{"ok  " if ok else "FAIL"} {name}: the same bytes')
    return ok


def main(policy, reward, work, prompts, texts, *only):
    go = lambda name, **more: check(name, policy, reward, work, prompts, texts, **more)
    cases = {
        'plain': lambda n: go(n),
        'ptx': lambda n: go(n, gamma=1.5, epochs=2, flags=['--micro-batch-tokens', 200]),
        'adaptive': lambda n: go(
            n,
            target_kl=0.5,
            whiten_rewards=True,
            temperature=0.8,
            discount=0.97,
            gae_lambda=0.9,
            ema=0.9,
            decay=0.1,
            penalty=0.3,
            iterations=3,
        ),
        'program': lambda n: go(n, command=PROGRAM),
        'gamma-0': lambda n: same_without_pretraining(n, policy, reward, work, prompts, texts),
    }
    return 0 if all([run(name) for name, run in cases.items() if not only or name in only]) else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
