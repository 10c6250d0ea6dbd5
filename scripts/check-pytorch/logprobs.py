"""`rlhf logprobs` and `rlhf score` against transformers in float32.

python scripts/check-pytorch/logprobs.py MODEL [REWARD_MODEL]
"""

import json
import sys
import torch
from folders import Text, causal, close, hidden, keep, logprobs, reward_model, rlhf

PROMPTS = [
    'name[The Eagle], food[Italian]\n',
    'First Citizen:\n',
    'é',
    '日本語のテキスト 🙂 \t\u00a0end',
    'x' * 30,
    ' ',
    'a\r\nb',
    'e\u0301 \U0001f468\u200d\U0001f469',
]
ANSWERS = [
    'The Eagle serves Italian food.',
    '',
    ' ',
    '🙂',
    'ünïcödé — “quotes”',
    'two\nlines\n\n',
    '\u0000'.replace('\u0000', 'z') * 40,
]


def cases():
    rows = [
        {'prompt': p, 'completion': a, 'extra': {'n': i}} for i, p in enumerate(PROMPTS) for a in ANSWERS[: 3 + i % 5]
    ]
    rows += [
        {'prompt': PROMPTS[0], 'completion': ANSWERS[0], 'finish_reason': 'length'},
        {
            'prompt': PROMPTS[1],
            'completions': ANSWERS,
            'finish_reason': ['stop', 'length', 'stop', 'length', 'stop', 'stop', 'length'],
        },
        {'prompt': PROMPTS[2], 'completions': [ANSWERS[4]]},
        {'prompt': PROMPTS[3], 'completions': ANSWERS[:3]},
    ]
    # A length completion without tokens has nothing to read: leave it out of the lists.
    rows[-3]['completions'] = [a or 'y' for a in ANSWERS]
    return rows


def answers_of(row):
    single = 'completion' in row
    texts = [row['completion']] if single else row['completions']
    reasons = row.get('finish_reason', 'stop' if single else ['stop'] * len(texts))
    return texts, [reasons] if single else reasons


def main(folder, reward=None):
    text, rows = Text(folder), cases()
    source = '\n'.join(json.dumps(r, ensure_ascii=i % 2 == 0) for i, r in enumerate(rows)) + '\n'
    model = causal(folder)
    out = [json.loads(line) for line in rlhf('logprobs', '--model', folder, '--quiet', stdin=source).splitlines()]
    assert len(out) == len(rows)
    got, want = [], []
    with torch.no_grad():
        for row, found in zip(rows, out):
            for key in row:
                assert found[key] == row[key], key
            single = 'completion' in row
            prompt = text.prompt(row['prompt'])
            assert found['prompt_tokens'] == prompt, (found['prompt_tokens'], prompt)
            for i, (answer, reason) in enumerate(zip(*answers_of(row))):
                ids = text.completion(answer, reason)
                pick = lambda k: found[k] if single else found[k][i]
                assert pick('tokens') == ids, (answer, pick('tokens'), ids)
                expected = logprobs(model, prompt + ids)[len(prompt) - 1 :].tolist()
                assert len(pick('logprobs')) == len(ids)
                got += [*pick('logprobs'), pick('sum') / max(1, len(ids))]
                want += [*expected, sum(expected) / max(1, len(ids))]
    keep(numbers=want)
    ok = close(f'logprobs {folder}', got, want, 2e-4)
    if reward:
        judge = reward_model(reward)
        text = Text(reward)
        out = [json.loads(line) for line in rlhf('score', '--model', reward, '--quiet', stdin=source).splitlines()]
        got, want, plain = [], [], []
        with torch.no_grad():
            for row, found in zip(rows, out):
                got += [found['reward']] if 'completion' in row else found['rewards']
                for answer, reason in zip(*answers_of(row)):
                    ids = text.prompt(row['prompt']) + text.completion(answer, reason)
                    raw = judge.score(hidden(judge, ids)[-1])[0]
                    want.append(float(raw * judge.reward_gain + judge.reward_bias))
                    whole = judge(input_ids=torch.tensor([ids])).logits[0, 0]
                    plain.append(float(whole - raw))
        keep(numbers=want)
        ok &= close(f'score {reward}', got, want, 2e-4)
        ok &= close('classifier reads the last token', plain, [0.0] * len(plain), 1e-6)
    return 0 if ok else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
