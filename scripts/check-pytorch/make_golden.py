"""Writes test/fixtures/cli_golden: two tiny models, data, and what PyTorch computes for the test's commands.

    RLHF='node dist/cli.js' python scripts/check-pytorch/make_golden.py PROSE.jsonl.gz DEMONSTRATIONS.jsonl.gz OUT_DIR

The models are trained by the program itself, which only decides where the comparison starts. Paths in the commands are
relative to the folder, so RLHF must name the program by an absolute path.
"""

import json
import os
import shutil
import sys
import folders
import logprobs
import ppo
import reward
import sample
import sft
from folders import recorded, rlhf, rows_of

SHAPE = ['--layers', 2, '--width', 24, '--heads', 3, '--hidden', 48, '--context', 128, '--vocab-size', 290, '--quiet']
ANSWERS = ['yes', 'No.', 'the food', 'A pub in town', '5 of 5', 'Children may come', 'cheap']


def main(prose, demonstrations, folder):
    prose, demos = rows_of(prose), rows_of(demonstrations)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(f'{folder}/building')
    os.chdir(folder)
    short = [
        {'prompt': d['prompt'][: 20 + i % 3 * 10] + '\n', 'completion': d['completion'][: 15 + i * 7 % 60]}
        for i, d in enumerate(demos[:60])
    ]
    brief = [{'prompt': d['prompt'], 'completion': ANSWERS[i * 5 % 7]} for i, d in enumerate(short)]
    reward.write('building/brief.jsonl', brief)
    reward.write('building/tune.jsonl', [{'text': p['text'][:2000]} for p in prose[:40]])
    reward.write('text.jsonl', [{'text': p['text'][: 150 + 37 * i]} for i, p in enumerate(prose[40:52])])
    reward.write('demonstrations.jsonl', short[:23])
    reward.write('prompts.jsonl', [{'prompt': d['prompt']} for d in short[30:55]])
    rlhf(
        'pretrain',
        '--data',
        'building/tune.jsonl',
        '--tokenizer-data',
        'building/brief.jsonl',
        '--arch',
        'gpt2',
        *SHAPE,
        '--lr',
        5e-3,
        '--batch-size',
        8,
        '--max-steps',
        60,
        '--out',
        'building/gpt2',
    )
    rlhf(
        'pretrain',
        '--data',
        'building/tune.jsonl',
        '--tokenizer',
        'building/gpt2',
        '--arch',
        'llama',
        '--kv-heads',
        1,
        *SHAPE,
        '--lr',
        5e-3,
        '--batch-size',
        8,
        '--max-steps',
        60,
        '--out',
        'building/llama',
    )
    rlhf(
        'train-sft',
        '--model',
        'building/gpt2',
        '--data',
        'building/brief.jsonl',
        '--lr',
        1e-2,
        '--batch-size',
        16,
        '--epochs',
        5,
        '--out',
        'building/policy',
        '--quiet',
    )
    rankings = reward.rankings(short[:27], 4)
    rlhf(
        'train-rm',
        '--model',
        'building/llama',
        '--data',
        reward.write('building/rankings.jsonl', rankings),
        '--lr',
        3e-3,
        '--batch-size',
        8,
        '--out',
        'building/reward',
        '--quiet',
    )
    for name in ('policy', 'reward'):
        os.makedirs(name)
        for file in ('config.json', 'generation_config.json', 'model.safetensors', 'tokenizer_config.json'):
            shutil.copy(f'building/{name}/{file}', f'{name}/{file}')
        if name == 'policy':
            config = json.load(open('policy/tokenizer_config.json'))
            json.dump({**config, 'chat_template': sft.TEMPLATE}, open('policy/tokenizer_config.json', 'w'), indent=1)
        json.dump(
            json.load(open('building/policy/tokenizer.json')),
            open(f'{name}/tokenizer.json', 'w'),
            ensure_ascii=False,
            separators=(',', ':'),
        )
    recorded.clear()

    work, demos = 'work', rows_of('demonstrations.jsonl')
    os.makedirs(work)
    texts = rows_of('text.jsonl')
    everything = [
        row
        for i, d in enumerate(demos[:10])
        for row in (
            d,
            {'text': texts[i]['text'][: 40 + 9 * i]},
            {
                'messages': [
                    {'role': 'user', 'content': 'Go on.'},
                    {'role': 'assistant', 'content': d['completion'][:20]},
                    {'role': 'user', 'content': 'Less.'},
                    {'role': 'assistant', 'content': 'ok'},
                ]
            },
            {'instruction': 'Say it.', 'input': d['prompt'] if i % 2 else '', 'output': d['completion']},
        )
    ]
    ok = [
        sft.check(
            'sft',
            'policy',
            work,
            everything,
            [
                '--micro-batch-tokens',
                200,
                '--pretrain',
                'text.jsonl',
                '--pretrain-fraction',
                0.3,
                '--pretrain-weight',
                0.7,
            ],
            decay=0.1,
            mix=texts,
            fraction=0.3,
            weight=0.7,
        ),
        sft.check('packing', 'policy', work, demos * 3, ['--packing'], packing=True),
        reward.check('rm', 'reward', work, reward.rankings(demos, 5), decay=0.1, eps=1e-6),
        ppo.check(
            'ptx',
            'policy',
            'reward',
            work,
            'prompts.jsonl',
            'text.jsonl',
            gamma=1.5,
            epochs=2,
            flags=['--micro-batch-tokens', 200],
        ),
        ppo.check(
            'adaptive',
            'policy',
            'reward',
            work,
            'prompts.jsonl',
            'text.jsonl',
            target_kl=0.5,
            whiten_rewards=True,
            temperature=0.8,
            discount=0.97,
            gae_lambda=0.9,
            ema=0.9,
            decay=0.1,
            penalty=0.3,
        ),
        logprobs.main('policy', 'reward') == 0,
        sample.greedy('policy', rows_of('prompts.jsonl')),
    ]
    for name in ('sft', 'packing', 'rm'):
        shutil.copy(f'{work}/{name}.jsonl', f'{name}.jsonl')
    shutil.rmtree(work)
    shutil.rmtree('building')
    with open('golden.json', 'w') as f:
        f.write('[\n' + ',\n'.join(json.dumps(r) for r in recorded) + '\n]\n')
    return 0 if all(ok) else 1


if __name__ == '__main__':
    sys.exit(main(*map(os.path.abspath, sys.argv[1:])))
