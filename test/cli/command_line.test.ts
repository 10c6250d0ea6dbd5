import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { commands } from '../../src/commands/index.ts';
import { readCall } from '../../src/command_line.ts';
import { UsageError } from '../../src/errors.ts';

const read = (...argv: string[]) => {
  const { command, options, words, help } = readCall(commands, argv);
  return { command: command.name, options: Object.fromEntries(options), words, help };
};

function refused(argv: string[], message: RegExp, hint?: RegExp): void {
  try {
    readCall(commands, argv);
  } catch (error) {
    assert.instance(error, UsageError);
    assert.match((error as UsageError).message, message);
    if (hint) assert.match((error as UsageError).hint ?? '', hint);
    return;
  }
  assert.unreachable(`accepted ${argv.join(' ')}`);
}

test('a lone - and negative numbers are values', () => {
  assert.equal(read('sample', '--data', '-', '--temperature', '-1e-3').options, {
    data: ['-'],
    temperature: ['-1e-3'],
  });
  assert.equal(read('sample', '-', '--model', 'm').words, ['-']);
});

test('values stay the text that was typed', () => {
  assert.equal(read('label', '--out', '12', '--labeler', '007').options, { out: ['12'], labeler: ['007'] });
  assert.equal(read('chat', '--system', '', '--model=0x1F').options, { system: [''], model: ['0x1F'] });
  assert.equal(read('chat', '--system=a=b:c', '--model', ':x').options, { system: ['a=b:c'], model: [':x'] });
  assert.equal(read('chat', '--system', 'true', '--model', 'false').options, { system: ['true'], model: ['false'] });
  assert.equal(read('chat', '--system', 'a\nb "c" $d', '--model', 'm.n').options, {
    system: ['a\nb "c" $d'],
    model: ['m.n'],
  });
});

test('repeated options keep every value in order, with = and without', () => {
  assert.equal(read('sample', '--data', '1', '--data=b', '--data', '1').options.data, ['1', 'b', '1']);
});

test('words beside options are kept apart', () => {
  const { options, words } = read('sample', '--data', 'a', '12', '--greedy', 'c', '--', '--model', '-x');
  assert.equal(options, { data: ['a'], greedy: ['true'] });
  assert.equal(words, ['12', 'c', '--model', '-x']);
});

test('flags take no value from the next word and can be turned off', () => {
  assert.equal(read('sample', '--greedy', 'file').options, { greedy: ['true'] });
  assert.equal(read('train-sft', '--no-shuffle', '--no-packing').options, { shuffle: ['false'], packing: ['false'] });
  assert.equal(read('train-sft', '--shuffle=false', '--no-packing=false').options, {
    shuffle: ['false'],
    packing: ['true'],
  });
  refused(['train-sft', '--packing=3'], /--packing takes no value, but got "3"/);
});

test('every option of every command comes through', () => {
  for (const { name, options } of commands) {
    for (const [option, { type }] of Object.entries(options)) {
      const words = type === 'flag' ? [`--${option}`] : [`--${option}`, '-7'];
      assert.equal(
        read(name, ...words).options,
        { [option]: [type === 'flag' ? 'true' : '-7'] },
        `${name} --${option}`,
      );
    }
  }
});

test('unknown commands and options are refused with what was meant', () => {
  refused(['trian-sft'], /unknown command "trian-sft"/, /train-sft/);
  refused(['ppo', '--bata', '0.1'], /unknown option --bata/, /--beta/);
  refused(['ppo', '--minibatch_size=3'], /unknown option --minibatch_size/, /--minibatch-size/);
  refused(['ppo', '-b', '3'], /unknown option -b/);
  refused(['sample', '--no-model'], /unknown option --no-model/);
  refused(['sample', '--constructor', 'x'], /unknown option --constructor/);
  refused(['sample', '--__proto__=1'], /unknown option --__proto__/);
  refused(['--quiet', 'sample'], /unknown option --quiet before the command/);
  refused(['constructor'], /unknown command/);
});

test('an option without its value is refused', () => {
  refused(['ppo', '--lr'], /--lr needs a value/);
  refused(['ppo', '--lr', '--beta', '3'], /--lr needs a value/, /--lr=--beta/);
  assert.equal(read('chat', '--system=--beta').options.system, ['--beta']);
});

test('help is found anywhere before --', () => {
  assert.ok(read('ppo', '--lr', '3', '--help').help);
  assert.ok(read('ppo', '-h').help);
  assert.not(read('sample', '--', '--help').help);
});

test.run();
