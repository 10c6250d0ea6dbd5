import { doctorOptions, type DoctorSettings } from '../options.ts';
import { command } from './command.ts';

export const doctor = command<DoctorSettings>({
  name: 'doctor',
  summary: 'List the adapters, and test every kernel',
  options: doctorOptions,
  examples: ['rlhf doctor', 'rlhf doctor --self-test'],
  run: async (context, settings) => (await import('../stages/doctor.ts')).doctor(settings, context),
});
