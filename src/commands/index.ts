import { bench } from './bench.ts';
import { chat } from './chat.ts';
import type { AnyCommand } from './command.ts';
import { doctor } from './doctor.ts';
import { evaluate } from './eval.ts';
import { exportModel } from './export.ts';
import { importGguf } from './import.ts';
import { label } from './label.ts';
import { logprobs } from './logprobs.ts';
import { ppo } from './ppo.ts';
import { pretrain } from './pretrain.ts';
import { report } from './report.ts';
import { sample } from './sample.ts';
import { score } from './score.ts';
import { trainRm } from './train_rm.ts';
import { trainSft } from './train_sft.ts';

/** All subcommands, in the order of the main help. */
export const commands: AnyCommand[] = [
  pretrain,
  trainSft,
  sample,
  label,
  trainRm,
  ppo,
  score,
  logprobs,
  evaluate,
  report,
  chat,
  importGguf,
  exportModel,
  doctor,
  bench,
];
