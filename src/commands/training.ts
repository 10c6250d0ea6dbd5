import { UsageError } from '../errors.ts';
import type { TrainSettings } from '../options.ts';
import { checkRows } from './row_rules.ts';

/** Checks of several options together that all training commands share. */
export function checkTraining(settings: TrainSettings & Parameters<typeof checkRows>[0]): void {
  if (settings.resume && settings.overwrite) throw new UsageError('--resume and --overwrite exclude each other');
  checkRows(settings);
}
