"""The updates of `rlhf ppo --no-shuffle` in PyTorch: the clipped objectives of policy and value model, pretraining mixed in."""

import torch
from folders import adamw, close, logprobs, norm
from ppo_rollouts import BATCH, response_logprobs, response_values

MINI = 5
# What the program's metrics call what is averaged over an iteration's minibatches.
NAMES = {
    'policy': 'loss/policy_avg',
    'value': 'loss/value_avg',
    'ptx': 'loss/ptx',
    'policy norm': 'grad_norm/policy',
    'ptx norm': 'grad_norm/ptx',
    'value norm': 'grad_norm/value',
    'approxkl': 'policy/approxkl_avg',
}


class Updates:
    """Both models' optimisers, and the moving average of the policy's weights."""

    def __init__(self, policy, value, pool, lr, value_lr, decay, temperature, gamma, ema):
        self.policy, self.value, self.pool = policy, value, pool
        self.temperature, self.gamma, self.ema = temperature, gamma, ema
        self.optimizers = [(adamw(policy, lr, 1e-5, decay), lr), (adamw(value, value_lr, 1e-5, decay), value_lr)]
        self.average = {k: v.detach().clone() for k, v in policy.state_dict().items()}
        self.taken = 0

    def iteration(self, rows, rate, epochs):
        """Takes an iteration's steps at `rate` times the learning rates; returns what each minibatch showed."""
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group['lr'] = lr * rate
        seen = {name: [] for name in NAMES}
        for _ in range(epochs):
            for begin in range(0, BATCH, MINI):
                part = rows[begin : begin + MINI]
                self.step_policy(part, seen)
                self.step_value(part, seen)
        return seen

    def step_policy(self, part, seen):
        policy, count = self.policy, sum(len(r['tokens']) for r in part)
        policy.zero_grad()
        losses, kls = [], []
        for r in part:
            new, old, a = (
                response_logprobs(policy, r, self.temperature),
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
        if self.gamma:
            self.add_pretraining(seen)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        self.optimizers[0][0].step()
        self.taken += 1
        for k, v in policy.state_dict().items():
            self.average[k] += (1 - self.ema) * (v - self.average[k])

    def add_pretraining(self, seen):
        """Adds γ times the gradient of the pretraining loss of the next three rows to the policy's."""
        policy, pool = self.policy, self.pool
        own = [p.grad.clone() for p in policy.parameters()]
        policy.zero_grad()
        segments = [s for i in range(3) for s in pool[(self.taken * 3 + i) % len(pool)] if len(s) > 1]
        ptx = -sum(logprobs(policy, s).sum() for s in segments) / sum(len(s) - 1 for s in segments)
        (self.gamma * ptx).backward()
        seen['ptx'].append(ptx.item())
        seen['ptx norm'].append(norm(policy))
        for p, g in zip(policy.parameters(), own):
            p.grad += g

    def step_value(self, part, seen):
        value, count = self.value, sum(len(r['tokens']) for r in part)
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
        self.optimizers[1][0].step()


def check_update(label, metrics, seen):
    """The program's means of an iteration against those of PyTorch, relative where they are large."""
    there = [k for k in NAMES if seen[k]]
    mean = {k: sum(seen[k]) / len(seen[k]) for k in there}
    return close(
        f'{label} update',
        [metrics[NAMES[k]] / max(0.1, abs(mean[k])) for k in there],
        [mean[k] / max(0.1, abs(mean[k])) for k in there],
        1e-3,
    )
