// The completion scripts as the shells themselves read them: what is offered at the end of a line. bash always; zsh and
// fish where they are installed.
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { commands } from '../../src/commands/index.ts';
import { completions } from '../../src/completions.ts';
import { temporaryFolder } from '../files/temporary.ts';

type Offers = (...lines: string[]) => string[][];

const folder = temporaryFolder();
mkdirSync(join(folder, 'ppo'));
writeFileSync(join(folder, 'rows.jsonl'), '');
const names = [...commands.map(({ name }) => name), 'completions', 'help'].sort();

function script(shell: string): string {
  const path = join(folder, `completions.${shell}`);
  writeFileSync(path, completions(commands, shell));
  return path;
}

function run(program: string, args: string[]): string {
  const { stdout, stderr, status } = spawnSync(program, args, { cwd: folder, encoding: 'utf8', timeout: 60_000 });
  assert.is(status, 0, `${program}: ${stderr}`);
  return stdout;
}

/** The lines after each `== `, one list for each of them. */
const parts = (output: string): string[][] =>
  output.split(/^== .*\n/m).slice(1).map((part) => part.split('\n').filter((line) => line !== ''));

function bash(...lines: string[]): string[][] {
  const path = script('bash');
  const ask = (line: string): string => {
    const words = line.split(' ').map((word) => `'${word}'`);
    return `COMPREPLY=(); COMP_WORDS=(${words.join(' ')}); COMP_CWORD=${words.length - 1}; _rlhf; echo "== "; printf '%s\\n' "\${COMPREPLY[@]}"`;
  };
  return parts(run('bash', ['-c', `source ${path}; ${lines.map(ask).join('; ')}`]));
}

function fish(...lines: string[]): string[][] {
  const path = script('fish');
  const ask = (line: string): string => `echo "== "; complete -C '${line}' | string split -f1 \\t`;
  return parts(run('fish', ['--no-config', '-c', `source ${path}\n${lines.map(ask).join('\n')}\ntrue`]));
}

/**
 * A zsh in a pseudo-terminal gets each line and a tab; what its `compadd` is given is written to a file. The line is then
 * taken away by ^X and not by ^U, which the terminal itself would act on while zsh does not read yet.
 */
const ZSH = String.raw`
zmodload zsh/zpty
script=$1 hits=$2; shift 2
zpty z zsh -f -i
zpty -w z "PS1=; unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; bindkey '^X' kill-buffer; source $script; hits=$hits"
zpty -w z 'compadd() {
  if [[ ${'${@[1,(i)(-|--)]}'} == *-(O|A|D)* ]]; then builtin compadd "$@"; return; fi
  local -a found; builtin compadd -A found "$@"; (( $#found )) && print -rl -- $found >> $hits; builtin compadd "$@"
}'
zpty -w z "print rea''dy"
zpty -r -m z seen '*ready*'
for line; do
  : > $hits
  zpty -w -n z "$line"$'\t'
  zpty -w z $'\C-x'"print fin''ished-$((++count))"
  zpty -r -m z seen "*finished-$count*"
  print -rl -- "== " "${'${(@f)$(<$hits)}'}"
done
zpty -d z
`;

function zsh(...lines: string[]): string[][] {
  const path = script('zsh');
  const program = join(folder, 'capture.zsh');
  writeFileSync(program, ZSH);
  return parts(run('zsh', ['-f', program, path, join(folder, 'hits'), ...lines]));
}

const installed = (shell: string): boolean => spawnSync(shell, ['--version']).status === 0;

for (const [shell, offers] of Object.entries({ bash, zsh, fish } satisfies Record<string, Offers>)) {
  const check = shell === 'bash' || installed(shell) ? test : test.skip;
  check(`${shell}: commands, options, choices and files are offered`, () => {
    const [all, begun, option, choice, preset, positional, shells, help, number, folderNamed, negative, file] = offers(
      'rlhf ', 'rlhf train-', 'rlhf ppo --gam', 'rlhf train-rm --schedule ', 'rlhf train-rm --preset ', 'rlhf eval p',
      'rlhf completions ', 'rlhf help tr', 'rlhf sample --temperature ', 'rlhf sample --model ppo --gr', 'rlhf train-rm --no-sh',
      'rlhf train-rm --data ro',
    ).map((found) => found.sort());
    assert.equal(all!.filter((word) => !word.startsWith('-')), names);
    assert.equal(begun, ['train-rm', 'train-sft']);
    assert.equal(option, ['--gamma']);
    assert.equal(choice, ['constant', 'cosine', 'linear']);
    assert.equal(preset, ['instructgpt', 'tldr', 'ziegler2019']);
    assert.equal(positional!.filter((word) => word.startsWith('p')), ['perplexity', 'policy']);
    assert.equal(shells, ['bash', 'fish', 'zsh']);
    assert.equal(help!.filter((word) => word.startsWith('tr')), ['train-rm', 'train-sft']);
    assert.equal(number, [], 'a number has nothing to offer');
    assert.equal(folderNamed, ['--greedy'], 'a value that is a command\'s name changes nothing');
    assert.equal(negative, ['--no-shuffle']);
    assert.equal(file, ['rows.jsonl']);
  });
}

test.run();
