"""What the rollouts of `rlhf ppo --save-rollouts` hold, computed again: texts, log-probabilities, values, scores, advantages."""

import math
import torch
from folders import close, logprobs, values_of

BATCH, NEW = 12, 16


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


def check_rollouts(label, rows, given, text, models, temperature, penalty, first):
    """Rows against the prompts given and the models as they are; `first`: none has been updated yet.

    Returns whether they agree, and the episodes as PyTorch has them."""
    assert len(rows) == BATCH
    with torch.no_grad():
        for i, r in enumerate(rows):
            assert r['prompt'] == given[i]['prompt']
            assert r['prompt_tokens'] == text.prompt(r['prompt'])
            assert len(r['tokens']) == NEW or r['tokens'][-1] == text.eos
            body = r['tokens'][:-1] if r['tokens'][-1] == text.eos else r['tokens']
            assert r['completion'] == text.tok.decode(body, skip_special_tokens=True), (
                r['completion'],
                text.tok.decode(body),
            )
        # From the second iteration on, each side has the weights that its own updates left.
        slack = 2e-4 if first else 1e-3
        own = [response_logprobs(models['policy'], r, temperature).tolist() for r in rows]
        worth = [response_values(models['value'], r).tolist() for r in rows]
        ok = close(f'{label} logprobs', flat(rows, 'logprobs'), [x for o in own for x in o], slack)
        ok &= close(
            f'{label} ref_logprobs',
            flat(rows, 'ref_logprobs'),
            [x for r in rows for x in response_logprobs(models['reference'], r, temperature).tolist()],
            2e-4,
        )
        ok &= close(f'{label} values', flat(rows, 'values'), [x for o in worth for x in o], slack)
        short = [penalty if r['tokens'][-1] != text.eos else 0.0 for r in rows]
        want = [
            (
                float(len(r['completion'])) / 10
                if models['reward'] is None
                else values_of(models['reward'], r['prompt_tokens'] + r['tokens'])[-1].item()
            )
            for r in rows
        ]
        ok &= close(f'{label} score', [r['score'] for r in rows], [x - p for x, p in zip(want, short)], 2e-4)
        return ok, [
            {'tokens': r['tokens'], 'logprobs': rounded(o), 'values': rounded(v), 'score': x - p}
            for r, o, v, x, p in zip(rows, own, worth, want, short)
        ]


def check_metrics(label, rows, m, text, beta, first, **estimates):
    """Rewards, advantages and the iteration's metrics `m`, from what the rows tell; and the mean KL of an episode."""
    used_beta = m['objective/kl_coef']
    ok = close(f'{label} beta', [used_beta], [beta], 1e-7)
    ok &= check_estimates(label, rows, beta, **estimates)
    kl = sum(sum(r['logprobs']) - sum(r['ref_logprobs']) for r in rows) / BATCH
    k3 = sum(math.exp(q - p) - 1 + p - q for r in rows for p, q in zip(r['logprobs'], r['ref_logprobs'])) / BATCH
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
    if first:
        zero = kl == 0 and all(r['logprobs'] == r['ref_logprobs'] for r in rows) and m['objective/kl'] == 0
        ok &= zero
        print(f'{"ok  " if zero else "FAIL"} {label} KL of the first step is exactly 0')
    return ok, kl
