import { readFileSync, readlinkSync } from 'node:fs';

/** Whether a process of that number runs on this machine. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/**
 * When a process started, in ticks of this boot of the machine: with its number it names one process, for numbers come again.
 * Empty where the system does not say, or the process has ended.
 */
export function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name before may hold anything
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
    return state === 'Z' ? '' : `${fields[18]} ${boot}`;
  } catch {
    return '';
  }
}

/** What tells apart containers on one machine, whose processes have the same numbers; empty where the system has nothing like it. */
export function processSpace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}
