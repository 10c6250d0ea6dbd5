"""`rlhf sample` against transformers: greedy texts, sampled frequencies, and no effect of batches or shards.

python scripts/check-pytorch/sample.py MODEL PROMPTS.jsonl [CASE…]
"""

import json
import sys
import torch
from folders import Text, causal, keep, rlhf, rows_of

NEW = 24


def sample(folder, rows, *flags):
    source = ''.join(json.dumps(r) + '\n' for r in rows)
    return [
        json.loads(line) for line in rlhf('sample', '--model', folder, '--quiet', *flags, stdin=source).splitlines()
    ]


def greedy(folder, rows):
    """Every answer is transformers' up to a place where its two best logits are closer than rounding."""
    text, model = Text(folder), causal(folder)
    found = sample(folder, rows, '--greedy', '--max-new-tokens', NEW, '--batch-size', 7)
    ended, ok, answers = 0, True, []
    for row, got in zip(rows, found):
        ids = text.prompt(row['prompt'])
        with torch.no_grad():
            out = model.generate(
                torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=text.eos, pad_token_id=0
            )[0, len(ids) :].tolist()
        stop = out[-1] == text.eos
        want = text.tok.decode(out[:-1] if stop else out, skip_special_tokens=True)
        ended += stop
        answers.append([want, 'stop' if stop else 'length'])
        if got['completion'] != want or got['finish_reason'] != ('stop' if stop else 'length'):
            print(
                f'     {row["prompt"]!r}: {got["completion"]!r} ({got["finish_reason"]}), transformers has {want!r}'
            )
            ok = False
    keep(answers=answers)
    print(f'{"ok  " if ok else "FAIL"} greedy: {len(rows)} answers, {ended} end with EOS')
    return ok


def layout(folder, rows):
    """--batch-size and --shard change no row."""
    flags = ['--k', 3, '--max-new-tokens', NEW, '--seed', 5]
    whole = sample(folder, rows, *flags)
    ok = all(sample(folder, rows, *flags, '--batch-size', n) == whole for n in (1, 4, 64))
    shards = [sample(folder, rows, *flags, '--shard', f'{i}/3') for i in range(3)]
    ok &= all(shards[j % 3][j // 3] == row for j, row in enumerate(whole)) and sum(map(len, shards)) == len(whole)
    same = sample(folder, [rows[0]] * 6, *flags)
    ok &= len({c for r in same for c in r['completions']}) > 6
    ok &= sample(folder, rows, *flags[:-1], 6) != whole
    print(f'{"ok  " if ok else "FAIL"} layout: batches of 1, 4, 64 and three shards give the same {len(whole)} rows')
    return ok


def frequencies(folder, rows):
    """First tokens against the softmax: chi-square by row, row 0 included; filters keep what they should."""
    text, model, ok = Text(folder), causal(folder), True
    rows = rows[:4]
    for name, flags in {
        'plain': [],
        'temperature': ['--temperature', 0.6],
        'top-k': ['--top-k', 5],
        'top-p': ['--top-p', 0.6],
    }.items():
        k = 3000
        found = sample(folder, rows, '--k', k, '--max-new-tokens', 1, '--batch-size', 256, *flags)
        for i, (row, got) in enumerate(zip(rows, found)):
            with torch.no_grad():
                logits = model(torch.tensor([text.prompt(row['prompt'])])).logits[0, -1].double()
            p = torch.softmax(logits / (0.6 if name == 'temperature' else 1), -1)
            order = p.argsort(descending=True)
            if name == 'top-k':
                p[order[5:]] = 0
            if name == 'top-p':
                before = p[order].cumsum(0) - p[order]
                p[order[before >= 0.6]] = 0
            p = p / p.sum()
            # A text may stand for several tokens (bytes that are no character alone): they are counted together.
            expected = {}
            for t, q in enumerate(p.tolist()):
                if q > 0:
                    word = (
                        ('', 'stop') if t == text.eos else (text.tok.decode([t], skip_special_tokens=True), 'length')
                    )
                    expected[word] = expected.get(word, 0.0) + q * k
            counts = {}
            for word in zip(got['completions'], got['finish_reason']):
                counts[word] = counts.get(word, 0) + 1
            stray = set(counts) - set(expected)
            big = [w for w, e in expected.items() if e >= 5]
            rest = k - sum(expected[w] for w in big)
            chi = sum((counts.get(w, 0) - expected[w]) ** 2 / expected[w] for w in big)
            seen_rest = k - sum(counts.get(w, 0) for w in big)
            freedom = len(big) - 1
            if rest > 1:
                chi += (seen_rest - rest) ** 2 / rest
                freedom += 1
            # Wilson and Hilferty: the cube root is nearly normal; 3.5 standard deviations.
            z = (
                0.0
                if freedom == 0
                else ((chi / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
            )
            good = not stray and z < 3.5
            ok &= good
            print(
                f'{"ok  " if good else "FAIL"} {name} row {i}: chi-square {chi:.1f} with {freedom} degrees of freedom '
                f'(z {z:+.1f}){" stray " + str(stray) if stray else ""}'
            )
    return ok


def main(folder, prompts, *only):
    rows = rows_of(prompts)
    cases = {'greedy': greedy, 'layout': layout, 'frequencies': frequencies}
    return 0 if all([run(folder, rows) for name, run in cases.items() if not only or name in only]) else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
