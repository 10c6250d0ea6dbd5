import { UsageError } from '../errors.ts';

export function checkRows(settings: { truncate?: boolean; skipLong?: boolean }): void {
  if (settings.truncate && settings.skipLong) throw new UsageError('--truncate and --skip-long exclude each other');
}
