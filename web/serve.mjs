// node web/serve.mjs [PORT]: serves web/dist on this machine. Any static host does as well; this one knows ranges.
import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const TYPES = {
  '.css': 'text/css',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

export const DIST = fileURLToPath(new URL('dist/', import.meta.url));

/** Answers one request with a file below `root`, or a part of it. */
export function answer(root, request, response) {
  const { pathname } = new URL(request.url, 'http://localhost');
  let path = join(root, normalize(decodeURIComponent(pathname)));
  let stat = statSync(path, { throwIfNoEntry: false });
  if (stat?.isDirectory()) {
    path = join(path, 'index.html');
    stat = statSync(path, { throwIfNoEntry: false });
  }
  if (!stat?.isFile() || !path.startsWith(root)) {
    response.writeHead(404, { 'content-type': 'text/plain' });
    return response.end('not found\n');
  }
  const etag = `"${stat.size}-${stat.mtimeMs}"`;
  const headers = { 'content-type': TYPES[extname(path)] ?? 'application/octet-stream', 'accept-ranges': 'bytes', etag, 'cache-control': 'no-cache' };
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const same = !request.headers['if-range'] || request.headers['if-range'] === etag;
  let [start, end, status] = [0, stat.size - 1, 200];
  if (range && same && Number(range[1]) < stat.size) {
    [start, end, status] = [Number(range[1]), Math.min(Number(range[2] || end), end), 206];
    headers['content-range'] = `bytes ${start}-${end}/${stat.size}`;
  }
  response.writeHead(status, { ...headers, 'content-length': end - start + 1 });
  if (request.method === 'HEAD' || stat.size === 0) return response.end();
  createReadStream(path, { start, end }).pipe(response);
}

/** A server on 127.0.0.1; `handle(request, response)` may answer first, by returning true. */
export async function serve(root, { port = 0, handle = async (_request, _response) => false } = {}) {
  const server = createServer(async (request, response) => {
    try {
      if (!(await handle(request, response))) answer(root, request, response);
    } catch (error) {
      response.destroy(error);
    }
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  return { server, url: `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (server.address()).port}/` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (!statSync(join(DIST, 'index.html'), { throwIfNoEntry: false })) {
    console.error('error: there is no web/dist: run web/build.sh first');
    process.exit(1);
  }
  try {
    const { url } = await serve(DIST, { port: Number(process.argv[2] ?? 8000) });
    console.log(`Open ${url} (Ctrl+C ends)`);
  } catch (error) {
    console.error(`error: ${error.message}`);
    process.exit(1);
  }
}
