import type { AnyCommand } from './commands/command.ts';
import { UsageError } from './errors.ts';
import type { Option } from './option_types.ts';
import { show } from './option_values.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;

/** A completion script for a shell, made from the commands' tables. */
export function completions(commands: AnyCommand[], shell: string | undefined): string {
  switch (shell) {
    case 'bash':
      return bash(commands);
    case 'zsh':
      return zsh(commands);
    case 'fish':
      return fish(commands);
    case undefined:
      throw new UsageError('completions: the shell is missing', `one of ${shells.join(', ')}`);
    default:
      throw new UsageError(`completions: unknown shell ${show(shell)}`, `one of ${shells.join(', ')}`);
  }
}

/** How the option is written: a flag that is on by default is only ever turned off. */
const written = (name: string, option: Option): string =>
  option.type === 'flag' && option.default === true ? `--no-${name}` : `--${name}`;

/** The words that a value is one of, where they are known. */
function values(command: AnyCommand, name: string, option: Option): readonly string[] | undefined {
  return name === 'preset' ? Object.keys(command.presets ?? {}) : option.choices;
}

const isPath = (option: Option): boolean => ['file', 'files', 'folder', 'path', 'reward'].includes(option.type);

function bash(commands: AnyCommand[]): string {
  const names = [...commands.map((command) => command.name), 'completions', 'help'].join(' ');
  const options = commands.map((command) => {
    const all = Object.entries(command.options).map(([name, option]) => written(name, option));
    const words = command.positional?.choices?.join(' ') ?? '';
    return `    ${command.name}) options="${[...all, '--help'].join(' ')}"; words="${words}" ;;`;
  });
  const chosen = commands.flatMap((command) =>
    Object.entries(command.options).flatMap(([name, option]) => {
      const words = values(command, name, option);
      return words
        ? [`    ${command.name}:--${name}) COMPREPLY=($(compgen -W "${words.join(' ')}" -- "$word")); return ;;`]
        : [];
    }),
  );
  const plain = new Set(
    commands.flatMap((command) =>
      Object.entries(command.options)
        .filter(([, option]) => option.type !== 'flag' && !option.choices && !isPath(option))
        .map(([name]) => `--${name}`),
    ),
  );
  plain.delete('--preset');
  return `# rlhf completions bash > ~/.local/share/bash-completion/completions/rlhf
_rlhf() {
  local word="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"
  local command="\${COMP_WORDS[1]}" options words
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "${names} --help --version" -- "$word")); return; fi
  case "$command" in
    completions) COMPREPLY=($(compgen -W "${shells.join(' ')}" -- "$word")); return ;;
    help) COMPREPLY=($(compgen -W "${names}" -- "$word")); return ;;
${options.join('\n')}
    *) return ;;
  esac
  case "$command:$previous" in
${chosen.join('\n')}
  esac
  case "$previous" in
    ${[...plain].join('|')}) return ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) if [ "$COMP_CWORD" -eq 2 ] && [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$word"))
       else COMPREPLY=($(compgen -f -- "$word")); fi ;;
  esac
}
complete -o filenames -F _rlhf rlhf
`;
}

function zsh(commands: AnyCommand[]): string {
  const quote = (text: string) => text.replace(/[[\]:\\]/g, '\\$&').replaceAll("'", "'\\''");
  const cases = commands.map((command) => {
    const lines = Object.entries(command.options).map(([name, option]) => {
      const repeated = ['files', 'strings', 'list'].includes(option.type) ? '*' : '';
      const words = values(command, name, option);
      const action =
        option.type === 'flag'
          ? ''
          : `:${quote(name)}:${words ? `(${words.join(' ')})` : isPath(option) ? '_files' : ''}`;
      return `        '${repeated}${written(name, option)}[${quote(option.text)}]${action}'`;
    });
    const { positional } = command;
    const word = positional
      ? [
          `        '*:${quote(positional.value)}:${positional.choices ? `(${positional.choices.join(' ')})` : '_files'}'`,
        ]
      : [];
    const help = "        '--help[Explain the command]'";
    return `    ${command.name})\n      _arguments \\\n${[...lines, help, ...word].join(' \\\n')} ;;`;
  });
  const names = commands.map(({ name, summary }) => `    '${name}:${quote(summary)}'`);
  return `#compdef rlhf
# rlhf completions zsh > a folder of $fpath, as _rlhf
_rlhf() {
  local -a commands
  commands=(
${names.join('\n')}
    'completions:Completions for a shell'
    'help:Help'
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    _arguments '--help[List the commands]' '--version[Versions of the program and its parts]'
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
    completions) _values shell ${shells.join(' ')} ;;
    help) _describe command commands ;;
${cases.join('\n')}
  esac
}
if [ "$funcstack[1]" = _rlhf ]; then _rlhf "$@"; else compdef _rlhf rlhf; fi
`;
}

function fish(commands: AnyCommand[]): string {
  const quote = (text: string) => `'${text.replace(/['\\]/g, '\\$&')}'`;
  const names = [...commands.map(({ name }) => name), 'completions', 'help'].join(' ');
  const first = "complete -c rlhf -n '__rlhf_runs \"\"'";
  const lines = [
    '# rlhf completions fish > ~/.config/fish/completions/rlhf.fish',
    // The second word, and not any word as fish's own function has it: a folder may be called ppo.
    'function __rlhf_runs',
    '    set -l words (commandline -opc) ""',
    '    test "$words[2]" = "$argv[1]"',
    'end',
    `${first} -f`,
    `${first} -l help -d 'List the commands'`,
    `${first} -l version -d 'Versions of the program and its parts'`,
  ];
  for (const { name, summary } of commands) lines.push(`${first} -a ${name} -d ${quote(summary)}`);
  lines.push(`${first} -a completions -d 'Completions for a shell'`, `${first} -a help -d 'Help'`);
  lines.push(`complete -c rlhf -n '__rlhf_runs completions' -f -a '${shells.join(' ')}'`);
  lines.push(`complete -c rlhf -n '__rlhf_runs help' -f -a '${names}'`);
  for (const command of commands) {
    const seen = `complete -c rlhf -n '__rlhf_runs ${command.name}'`;
    if (command.positional?.choices) lines.push(`${seen} -f -a "${command.positional.choices.join(' ')}"`);
    for (const [name, option] of Object.entries(command.options)) {
      const words = values(command, name, option);
      const value =
        option.type === 'flag' ? '' : words ? ` -x -a "${words.join(' ')}"` : isPath(option) ? ' -r -F' : ' -x';
      lines.push(`${seen} -l ${written(name, option).slice(2)}${value} -d ${quote(option.text)}`);
    }
    lines.push(`${seen} -l help -d 'Explain the command'`);
  }
  return `${lines.join('\n')}\n`;
}
