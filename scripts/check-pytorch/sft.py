"""Eight `rlhf train-sft` steps against PyTorch's AdamW, weight by weight, on every kind of row.

    python scripts/check-pytorch/sft.py MODEL WORK_DIR DEMONSTRATIONS.jsonl TEXT.jsonl [CASE…]

`bound` is the largest allowed norm-wise deviation of a tensor's update over the eight steps.
"""

import json
import shutil
import sys
import torch
from folders import Text, adamw, causal, compare_weights, keep, metrics_of, norm, rlhf, rows_of

LR, CLIP, BATCH, CONTEXT = 1e-3, 1.0, 5, 128
bound = 2e-3
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def conversation(text, messages, given=0):
    """(ids, mask) of a conversation: each assistant turn from `given` on, with its end-of-turn token."""
    tok = text.tok
    render = lambda m, more=False: tok.apply_chat_template(m, tokenize=False, add_generation_prompt=more)
    whole = render(messages)
    coded = tok(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, mask = coded['input_ids'], [0] * len(coded['input_ids'])
    for i, m in enumerate(messages):
        if m['role'] != 'assistant' or i < given:
            continue
        begin = len(render(messages[:i], True))
        end = whole.index(tok.eos_token, begin) + len(tok.eos_token)
        for t, (_, b) in enumerate(coded['offset_mapping']):
            mask[t] |= int(begin < b <= end)
    return ids, mask


def encode(text, row):
    if 'text' in row:
        ids = text.document(row['text'])
        return ids, [0] + [1] * (len(ids) - 1)
    if 'messages' in row:
        return conversation(text, row['messages'])
    if isinstance(row.get('prompt'), list):
        return conversation(text, row['prompt'] + row['completion'], len(row['prompt']))
    if 'instruction' in row:
        given = row.get('input') or ''
        row = {'prompt': row['instruction'] + '\n\n' + (given + '\n\n' if given else ''), 'completion': row['output']}
    prompt, answer = text.prompt(row['prompt']), text.completion(row['completion'])
    return prompt + answer, [0] * len(prompt) + [1] * len(answer)


def nll_sum(model, ids, mask):
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    found = -torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    keep = torch.tensor(mask[1:], dtype=torch.bool)
    return found[keep].sum()


def check(
    name,
    model_dir,
    work,
    rows,
    flags=(),
    decay=0.0,
    eps=1e-8,
    packing=False,
    mix=None,
    fraction=0.0,
    weight=1.0,
    schedule=None,
):
    data, out = f'{work}/{name}.jsonl', f'{work}/{name}'
    open(data, 'w').write(''.join(json.dumps(r) + '\n' for r in rows))
    shutil.rmtree(out, ignore_errors=True)
    rlhf(
        'train-sft',
        '--model',
        model_dir,
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
        '--weight-decay',
        decay,
        '--adam-eps',
        eps,
        '--epochs',
        3,
        '--quiet',
        *flags,
    )
    text, model = Text(model_dir), causal(model_dir)
    items = [[encode(text, r)] for r in rows]
    if packing:  # rows in order, a new packed row where the next does not fit
        packed, used = [], CONTEXT + 1
        for [item] in items:
            if used + len(item[0]) > CONTEXT:
                packed.append([])
                used = 0
            packed[-1].append(item)
            used += len(item[0])
        items = packed
    batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
    pool = text.pack([r['text'] for r in mix], CONTEXT) if mix else []
    optimizer, log = adamw(model, LR, eps, decay), metrics_of(out)
    worst, tokens, used, losses = 0.0, 0, 0, []
    for step in range(8):
        batch = [item for row in batches[step % len(batches)] for item in row]
        count = sum(sum(mask[1:]) for _, mask in batch)
        loss = sum(nll_sum(model, *item) for item in batch) / count
        total = loss
        tokens += sum(len(ids) for ids, _ in batch)
        more = []
        while mix and (used + 1) * CONTEXT <= fraction * tokens + 1e-9:
            more.append(pool[used % len(pool)])
            used += 1
        if more:
            segments = [s for row in more for s in row]
            ptx = sum(nll_sum(model, s, [0] + [1] * (len(s) - 1)) for s in segments if len(s) > 1) / sum(
                len(s) - 1 for s in segments
            )
            total = total + weight * ptx
        optimizer.zero_grad()
        total.backward()
        found = norm(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
        worst = max(
            worst, abs(log[step]['loss'] - loss.item()) / loss.item(), abs(log[step]['grad_norm'] - found) / found
        )
    keep(loss=losses)
    deviation = compare_weights(model, model_dir, out, name)
    print(
        f'{"ok  " if deviation < bound and worst < 1e-4 else "FAIL"} {name}: '
        f'metrics within {worst:.1e}, {used} pretraining rows'
    )
    return deviation < bound and worst < 1e-4


def main(model_dir, work, demonstrations, texts, *only):
    demos, prose = rows_of(demonstrations)[:23], rows_of(texts)
    local = f'{work}/chat-model'
    shutil.copytree(model_dir, local, dirs_exist_ok=True)
    config = json.load(open(f'{local}/tokenizer_config.json'))
    json.dump({**config, 'chat_template': TEMPLATE}, open(f'{local}/tokenizer_config.json', 'w'))
    chat = []
    for i, d in enumerate(demos[:16]):
        turns = [
            {'role': 'user', 'content': d['prompt'].strip()},
            {'role': 'assistant', 'content': d['completion'][:30]},
        ]
        other = [{'role': 'user', 'content': 'shorter?'}, {'role': 'assistant', 'content': 'ok ' * (i % 4 + 1)}]
        chat.append(
            [
                {'messages': turns},
                {'messages': turns[:2] + other if i < 8 else other + other},
                {'prompt': other + turns[:1], 'completion': turns[1:]},
                {'messages': [{'role': 'system', 'content': 'be brief'}, *other]},
            ][i % 4]
        )
    short = [{'text': r['text'][:n]} for n, r in zip([60, 90, 5, 120, 33, 70, 11], prose)]
    instructions = [
        {'instruction': 'Describe it.', 'input': d['prompt'] if i % 2 else '', 'output': d['completion']}
        for i, d in enumerate(demos[:6])
    ]
    cases = {
        'pairs': lambda n: check(n, model_dir, work, demos),
        'decay': lambda n: check(n, model_dir, work, demos, decay=0.1, eps=1e-6),
        'split': lambda n: check(n, model_dir, work, demos, ['--micro-batch-tokens', 150]),
        'chat': lambda n: check(n, local, work, chat),
        'text': lambda n: check(n, model_dir, work, short + instructions + demos[:3]),
        'packing': lambda n: check(n, model_dir, work, (short + demos) * 3, ['--packing'], packing=True),
        'mix': lambda n: check(
            n,
            model_dir,
            work,
            demos,
            ['--pretrain', texts, '--pretrain-fraction', 0.3, '--pretrain-weight', 0.7],
            mix=prose,
            fraction=0.3,
            weight=0.7,
        ),
    }
    return 0 if all([run(name) for name, run in cases.items() if not only or name in only]) else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
