"""`rlhf ppo --save-rollouts --no-shuffle` computed again in PyTorch: rollouts, advantages, updated weights.

    python scripts/check-pytorch/ppo.py POLICY REWARD_MODEL WORK_DIR PROMPTS.jsonl TEXT.jsonl [CASE…]

Formulas: Ouyang et al. 2022, section 3.5 and appendix C.4; Schulman et al. 2015 (GAE) and 2017 (the clipped objective).
"""

import filecmp
import shutil
import sys
import torch
from folders import (
    AutoModelForSequenceClassification,
    Text,
    causal,
    compare_weights,
    keep,
    metrics_of,
    reward_model,
    rlhf,
    rows_of,
)
from ppo_rollouts import BATCH, NEW, check_metrics, check_rollouts
from ppo_update import MINI, Updates, check_update

CONTEXT = 128
# A reward program: a tenth of the characters.
PROGRAM = "jq -c '{reward: ((.completion | length) / 10)}'"


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
    start = f'{work}/value-start' if command else reward_dir
    if command:
        zero_head(policy_dir, start)
    models = {
        'policy': causal(policy_dir),
        'reference': causal(policy_dir),
        'reward': None if command else reward_model(reward_dir),
        'value': reward_model(start),
    }
    policy, value = models['policy'], models['value']
    pool = text.pack([r['text'] for r in rows_of(texts)], CONTEXT)
    updates = Updates(policy, value, pool, lr, value_lr, decay, temperature, gamma, ema)
    estimates = {'gae_lambda': gae_lambda, 'discount': discount, 'whiten_rewards': whiten_rewards}
    given, log, ok, episodes = rows_of(prompts), metrics_of(out), True, []
    for iteration in range(iterations):
        rows = rows_of(f'{out}/rollouts/step-{iteration + 1:06d}.jsonl')
        label, first, metrics = f'{name} {iteration + 1}', iteration == 0, log[iteration]
        asked = [given[(iteration * BATCH + i) % len(given)] for i in range(BATCH)]
        good, found = check_rollouts(label, rows, asked, text, models, temperature, penalty, first)
        episodes.append(found)
        ok &= good
        good, kl = check_metrics(label, rows, metrics, text, beta, first, **estimates)
        ok &= good
        ok &= check_update(label, metrics, updates.iteration(rows, min(1.0, 0.1 + 0.9 * iteration / 4), epochs))
        if target_kl:
            beta *= 1 + max(-0.2, min(0.2, kl / target_kl - 1)) * BATCH / 50
    keep(episodes=episodes)
    if ema:
        ok &= compare_weights(policy, policy_dir, f'{out}/raw', f'{name} raw policy') < 1e-2
        policy.load_state_dict(updates.average)
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
