// The program as a single executable file: Dawn comes from inside it, the rest is the same.
import './dawn.ts';
import '../cli.ts';
