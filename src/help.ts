import type { AnyCommand } from './commands/command.ts';
import { shells } from './completions.ts';
import { groups, type Option } from './option_types.ts';

/** The main help: what the program is, the pipeline in five lines, the commands. `width` is in columns. */
export function mainHelp(commands: AnyCommand[], width: number): string {
  return [
    'rlhf COMMAND [OPTIONS]    Reinforcement learning from human feedback: demonstrations, rankings, PPO.',
    '',
    'The pipeline',
    '  rlhf train-sft --model base --data demonstrations.jsonl --out sft',
    '  rlhf sample    --model sft --k 4 < prompts.jsonl > answers.jsonl',
    '  rlhf label     answers.jsonl --out rankings.jsonl',
    '  rlhf train-rm  --model sft --data rankings.jsonl --demonstrations demonstrations.jsonl --out rm',
    '  rlhf ppo       --policy sft --reward rm --prompts prompts.jsonl --out policy',
    '',
    'Commands',
    ...rows([...commands.map(({ name, summary }): [string, string] => [name, summary]), ...builtIn], width),
    '',
    'rlhf COMMAND --help tells about one of them. rlhf --version prints the versions.',
  ].join('\n');
}

const builtIn: [string, string][] = [
  ['completions SHELL', 'Completions for bash, zsh or fish'],
  ['help [COMMAND]', 'This help, or that of a command'],
];

/** The help of `completions`. */
export const completionsHelp = [
  'Print completions for a shell.',
  '',
  'Usage',
  `  rlhf completions ${shells.join('|')}`,
  '',
  'Examples',
  '  rlhf completions bash > ~/.local/share/bash-completion/completions/rlhf',
  '  rlhf completions zsh > "${fpath[1]}/_rlhf"',
  '  rlhf completions fish > ~/.config/fish/completions/rlhf.fish',
].join('\n');

/** The help of one command: usage, options under their headings with defaults, examples. */
export function commandHelp(command: AnyCommand, width: number): string {
  const { name, summary, positional, options, examples, presets } = command;
  const entries = Object.entries(options);
  const required = entries
    .filter(([option, { required: needed }]) => needed && !(option === positional?.key))
    .map(([option, { value }]) => ` --${option} ${value}`);
  const word = positional ? positional.value + (positional.many ? '…' : '') : '';
  const words = word === '' ? '' : positional!.required ? ` ${word}` : ` [${word}]`;
  const lines = [`${summary}.`, '', 'Usage', `  rlhf ${name}${words}${required.join('')} [OPTIONS]`];
  if (positional) {
    const choices = positional.choices ? ` One of ${positional.choices.join(', ')}.` : '';
    lines.push(...rows([[positional.value, positional.text + choices]], width));
  }
  for (const group of groups) {
    const inGroup = entries.filter(([, option]) => option.group === group);
    if (inGroup.length === 0) continue;
    lines.push(
      '',
      group,
      ...rows(
        inGroup.map(([option, data]) => [optionTitle(option, data), describe(command, option, data)]),
        width,
      ),
    );
  }
  if (presets)
    lines.push(
      '',
      'Presets',
      ...rows([[Object.keys(presets).join(', '), '--preset NAME --dry-run shows the values.']], width),
    );
  lines.push('', 'Examples', ...examples.map((example) => `  ${example}`));
  return lines.join('\n');
}

function optionTitle(name: string, option: Option): string {
  if (option.type !== 'flag') return `--${name} ${option.value}`;
  return option.default === true ? `--no-${name}` : `--${name}`;
}

function describe(command: AnyCommand, name: string, option: Option): string {
  const { text, required, defaultText } = option;
  if (command.input === name) return `${text} Default: standard input.`;
  if (required) return `${text} Required.`;
  const value = defaultText ?? plainDefault(option);
  return value === undefined ? text : `${text} Default: ${value}.`;
}

function plainDefault(option: Option): string | undefined {
  const value = option.default;
  if (value === undefined || typeof value === 'boolean' || option.type === 'shard') return undefined;
  if (Array.isArray(value)) return value.length > 0 ? value.join(',') : undefined;
  return typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);
}

/** Two columns; the second wrapped at the width. */
function rows(entries: [string, string][], width: number): string[] {
  const left = Math.min(30, Math.max(...entries.map(([title]) => title.length))) + 4;
  const room = Math.max(24, Math.min(width, 110) - left);
  return entries.flatMap(([title, text]) => {
    const wrapped = wrap(text, room);
    const first = title.length + 4 > left ? [`  ${title}`] : [];
    return [
      ...first,
      ...wrapped.map(
        (line, i) => (i === 0 && first.length === 0 ? `  ${title}`.padEnd(left) : ' '.repeat(left)) + line,
      ),
    ];
  });
}

function wrap(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1)!;
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines;
}
