import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { RowError } from '../data/collect.ts';
import { UsageError } from '../errors.ts';
import page from './page.html';
import type { Session } from './session.ts';

const MAX_BODY_BYTES = 1 << 20;

export interface LabelServer {
  url: string;
  /** Resolves when every prompt is ranked; rejects where the rankings file cannot be written. */
  finished: Promise<void>;
  close(): void;
}

/**
 * Serves the ranking page on this machine only. GET / is the page, GET /task the prompt to rank now
 * (`{id, prompt, answers, done, total}`, or only `{done, total}` at the end), POST /ranking takes `{id, ranks}`, POST
 * /skip takes `{id}`; both answer with the next task. A request that another site's page could send is refused.
 * @throws UsageError where the port is taken
 */
export async function serveLabels(session: Session, port: number): Promise<LabelServer> {
  let finish!: () => void;
  let fail!: (error: unknown) => void;
  const finished = new Promise<void>((resolve, reject) => ([finish, fail] = [resolve, reject]));
  const server = createServer((request, response) => {
    response.on('finish', () => session.done === session.total && finish());
    handle(session, request, response).catch((error: unknown) => {
      const theirs = error instanceof RowError || error instanceof SyntaxError;
      if (theirs) return json(response, 400, { error: error.message });
      json(response, 500, { error: error instanceof Error ? error.message : String(error) });
      fail(error);
    });
  });
  await listen(server, port);
  const close = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://localhost:${(server.address() as AddressInfo).port}/`, finished, close };
}

async function handle(session: Session, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method, url, headers } = request;
  // Names other than this machine's come from pages that resolve their own name to it.
  const isLocal = /^(localhost|127\.0\.0\.1)(:\d+)?$/.test(headers.host ?? '');
  if (!isLocal) return json(response, 403, { error: 'local only' });
  if (method === 'GET' && url === '/') {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
    response.end(page);
    return;
  }
  if (method === 'GET' && url === '/task') return json(response, 200, shownTask(session));
  if (method !== 'POST' || (url !== '/ranking' && url !== '/skip')) {
    return json(response, 404, { error: `no ${method} ${url}` });
  }
  // A form on another site can post, but not with this type.
  if (!headers['content-type']?.startsWith('application/json')) return json(response, 415, { error: 'not JSON' });
  const body = await readBody(request);
  if (body === undefined) return json(response, 413, { error: 'too long' });
  const { id, ranks } = (JSON.parse(body) ?? {}) as { id?: unknown; ranks?: unknown };
  const task = session.find(id);
  // Ranked already, in another window.
  if (!task) return json(response, 409, shownTask(session));
  if (url === '/skip') session.skip(task);
  else session.rank(task, ranks);
  json(response, 200, shownTask(session));
}

function shownTask(session: Session): object {
  const task = session.next();
  const { done, total } = session;
  return task ? { id: task.id, prompt: task.prompt, answers: task.shown, done, total } : { done, total };
}

function json(response: ServerResponse, status: number, value: object): void {
  if (response.headersSent) return;
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  response.end(JSON.stringify(value));
}

async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += (chunk as Buffer).length;
    if (size > MAX_BODY_BYTES) return undefined;
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString();
}

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const reasons: Record<string, string> = { EADDRINUSE: 'is in use', EACCES: 'is not allowed' };
      const why = reasons[error.code ?? ''] ?? error.message;
      reject(new UsageError(`--port: port ${port} ${why}`, 'choose another one; 0 takes any that is free'));
    });
    server.listen(port, '127.0.0.1', resolve);
  });
}
