// A server that serves a model badly: it breaks off, replaces the model meanwhile, hides validators, and lies about lengths,
// ranges and types. And models to serve: in one file, in two shards, and others that look the same from outside.
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { gzipSync } from 'node:zlib';

const PAGE = Buffer.from('<!doctype html>\n<html><head><title>Log in</title></head><body>Please log in to this network.</body></html>\n');

/**
 * How an answer is spoilt. Of numbers of bytes, negative ones count from the end.
 *
 * @typedef {{
 *   status?: number, headers?: Record<string, string>, html?: boolean, body?: Buffer,
 *   breakAfter?: number, cut?: number, stall?: number,
 *   length?: 'none' | number, gzip?: boolean, type?: string,
 *   etag?: 'none' | 'weak' | string, modified?: string, ranges?: 'none' | 'from zero' | 'slice as 200' | 'hidden' | 'elsewhere' | 'short',
 * }} Spoil
 */

/** @typedef {{ url: string, requests: string[], files: Record<string, Buffer>, spoil(file: string, request: import('node:http').IncomingMessage, n: number): Spoil | null | void, bytes: number, close(): void }} HostileServer */

/** @returns {Promise<HostileServer>} */
export async function hostileServer(files) {
  const server = createServer((request, response) => {
    const file = new URL(request.url, 'http://x').pathname.split('/').pop();
    const n = (counts[file] = (counts[file] ?? 0) + 1);
    self.requests.push(`${request.method} ${file}${request.headers.range ? ` ${request.headers.range}` : ''}`);
    answer(self, file, request, response, self.spoil(file, request, n) ?? {}).catch((error) => response.destroy(error));
  });
  const counts = {};
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => (server.closeAllConnections(), server.close());
  const self = { url: `http://127.0.0.1:${server.address().port}/model/`, requests: [], files, spoil: () => null, bytes: 0, close };
  return self;
}

async function answer(self, file, request, response, spoil) {
  let content = spoil.html ? PAGE : (spoil.body ?? self.files[file]);
  const cors = { 'access-control-allow-origin': '*', 'access-control-allow-headers': 'range', 'cache-control': 'no-cache' };
  if (request.method === 'OPTIONS') return response.writeHead(204, cors).end();
  if (spoil.status || !content) {
    return response.writeHead(spoil.status ?? 404, { ...cors, ...defined(spoil.headers), 'content-type': 'text/plain' }).end('no\n');
  }
  const etag = `"${createHash('sha1').update(content).digest('hex').slice(0, 16)}"`;
  const headers = { ...cors, 'content-type': spoil.type ?? (spoil.html ? 'text/html' : file.endsWith('json') ? 'application/json' : 'application/octet-stream') };
  if (spoil.etag !== 'none') headers.etag = spoil.etag === 'weak' ? `W/${etag}` : (spoil.etag ?? etag);
  if (spoil.modified) headers['last-modified'] = spoil.modified;
  // What another origin is let see.
  headers['access-control-expose-headers'] = spoil.ranges === 'hidden' ? 'etag' : 'etag, content-range, content-encoding';
  const total = content.length;
  let status = 200;
  const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
  if (spoil.ranges !== 'none') headers['accept-ranges'] = 'bytes';
  if (from !== undefined && spoil.ranges !== 'none') {
    let [start, end] = [Number(from), total];
    if (start >= total) return response.writeHead(416, { ...headers, 'content-range': `bytes */${total}` }).end();
    if (spoil.ranges === 'from zero') start = 0;
    if (spoil.ranges === 'elsewhere') start = Math.max(0, start - 1000);
    if (spoil.ranges === 'short') end = Math.min(end, start + 100_000);
    status = spoil.ranges === 'slice as 200' ? 200 : 206;
    content = content.subarray(start, end);
    headers['content-range'] = `bytes ${start}-${end - 1}/${total}`;
  }
  if (spoil.cut !== undefined) content = content.subarray(0, spoil.cut);
  if (spoil.gzip && status === 200) {
    content = gzipSync(content);
    headers['content-encoding'] = 'gzip';
  }
  if (spoil.length !== 'none') headers['content-length'] = content.length + (spoil.length ?? 0);
  if (spoil.headers) Object.assign(headers, spoil.headers);
  if (request.method === 'HEAD') return response.writeHead(status, defined(headers)).end();
  if (spoil.length !== undefined || spoil.breakAfter !== undefined) {
    // Past node, which would mend or refuse such answers: what is sent and how it ends is what the test says.
    const socket = response.socket;
    const lines = Object.entries(defined(headers)).map(([name, value]) => `${name}: ${value}`);
    socket.write(`HTTP/1.1 ${status} OK\r\n${lines.join('\r\n')}\r\nconnection: close\r\n\r\n`);
    const sent = content.subarray(0, spoil.breakAfter);
    self.bytes += sent.length;
    socket.write(sent, () => setTimeout(() => socket.end(), 5));
    return;
  }
  self.bytes += content.length;
  response.writeHead(status, defined(headers));
  if (spoil.stall !== undefined) return void response.write(content.subarray(0, spoil.stall));
  response.end(content);
}

const defined = (headers = {}) => Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));

/** Safetensors of some tensors, `{ name: Buffer }`, each of one row of f32. */
export function safetensors(tensors) {
  let at = 0;
  const header = {};
  for (const [name, data] of Object.entries(tensors)) {
    header[name] = { dtype: 'F32', shape: [data.length / 4], data_offsets: [at, (at += data.length)] };
  }
  return pack(header, Object.values(tensors));
}

function pack(header, data) {
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...data]);
}

/** A model in one file as one in two shards and an index. */
export function shards(model) {
  const { 'model.safetensors': whole, ...others } = model;
  const data = 8 + Number(whole.readBigUInt64LE(0));
  const { __metadata__, ...tensors } = JSON.parse(whole.subarray(8, data).toString());
  const names = Object.keys(tensors);
  const index = { metadata: { total_size: whole.length - data }, weight_map: {} };
  const parts = [names.slice(0, names.length >> 1), names.slice(names.length >> 1)].map((some, i) => {
    const file = `model-0000${i + 1}-of-00002.safetensors`;
    let at = 0;
    const header = {};
    const bytes = some.map((name) => {
      const [start, end] = tensors[name].data_offsets;
      header[name] = { ...tensors[name], data_offsets: [at, (at += end - start)] };
      index.weight_map[name] = file;
      return whole.subarray(data + start, data + end);
    });
    return [file, pack(__metadata__ ? { __metadata__, ...header } : header, bytes)];
  });
  return { ...others, 'model.safetensors.index.json': Buffer.from(JSON.stringify(index)), ...Object.fromEntries(parts) };
}

/** A small model, which no program could run; those of another seed have the same shapes, and sizes to the byte. */
export function smallModel(seed, bytes = 40_000) {
  const numbers = (n, more) => Buffer.from(Float32Array.from({ length: n }, (_, i) => Math.sin(i * (seed + more))).buffer);
  const tensors = Object.fromEntries(['a', 'b', 'c', 'd'].map((name, i) => [`layers.${name}.weight`, numbers(bytes / 16, i)]));
  const words = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`word${String((i * 7 + seed) % 50).padStart(2, '0')}`, 100 + i]));
  return {
    'config.json': Buffer.from(JSON.stringify({ model_type: 'mamba', eos_token_id: 100 + seed })),
    'tokenizer.json': Buffer.from(JSON.stringify({ model: { type: 'BPE', vocab: words } })),
    'model.safetensors': safetensors(tensors),
  };
}
