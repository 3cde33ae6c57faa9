// Node http; with CLIENT=fetch calls through the built-in fetch, with LIMIT=n not more than n at once, with STORE=on every
// other call after a value was fetched from a store, over one connection for all.
'use strict';
const http = require('http');
const { createHash } = require('crypto');
const { setTimeout: sleep } = require('timers/promises');

const { PORT, BACKEND, OUT = 'pooled', CLIENT = 'http', STORE } = process.env;
const CALLS = { one: 1, seq2: 2, par2: 2, fan8: 8, sleep: 2, executor: 1, saturated: 2, retry: 1, late: 1 };
const agent = new http.Agent({ keepAlive: OUT !== 'fresh', maxSockets: Number(process.env.SOCKETS || Infinity) });
// Holds calls back itself, as p-limit does: the next one starts when somebody's response has come.
const places = { free: Number(process.env.LIMIT || Infinity), waiting: [] };
const few = new http.Agent({ keepAlive: true, maxSockets: 4 });
let jobs = false;
let number = 0;

function request(path, agent) {
  return new Promise((resolve, reject) => {
    http.get(BACKEND + path, { agent }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode));
    }).on('error', reject);
  });
}

async function call(path, limited = false) {
  if (places.free > 0) places.free--;
  else await new Promise((resolve) => places.waiting.push(resolve));
  try {
    return await send(path, limited);
  } finally {
    const next = places.waiting.shift();
    if (next) next();
    else places.free++;
  }
}

async function send(path, limited) {
  if (STORE && turn++ % 2) await fetchValue();
  if (CLIENT === 'http' || limited) return request(path, limited ? few : agent);
  const response = await fetch(BACKEND + path, OUT !== 'fresh' ? {} : { headers: { connection: 'close' } });
  await response.arrayBuffer();
  return response.status;
}

function paths(pattern, id, kept) {
  return Array.from({ length: CALLS[pattern] }, (_, index) => {
    if (kept) return `/call/${id}/${index}`;
    const digest = createHash('sha256').update(`${id}:${index}`).digest('hex').slice(0, 32);
    return `/${pattern === 'retry' ? 'flaky' : 'call'}/${digest}`;
  });
}

async function serve(pattern, urls) {
  if (pattern === 'retry') {
    while ((await call(urls[0])) === 503);
  } else if (pattern === 'par2' || pattern === 'fan8') {
    await Promise.all(urls.map((url) => call(url)));
  } else if (pattern === 'executor') {
    // A job for the thread pool of libuv first, as reading a file or hashing a password is.
    await new Promise((resolve) => require('crypto').pbkdf2('a', 'b', 10, 16, 'sha256', resolve));
    await call(urls[0]);
  } else {
    for (const url of urls) {
      if (pattern === 'sleep') await sleep(10);
      await call(url, pattern === 'saturated');
    }
  }
}

// A store that answers in turn after a moment, in a process of its own, and the one connection to it.
const STORE_SOURCE = `require('net').createServer((socket) => {
  socket.on('data', (text) => setTimeout(() => socket.write(text), 3));
}).listen(0, '127.0.0.1', function () { process.send(this.address().port); });
process.on('disconnect', () => process.exit());`;

function openStore() {
  const child = require('child_process').fork('-e', [STORE_SOURCE], { execArgv: [], stdio: 'ignore' });
  const waiting = [];
  const opened = new Promise((resolve) => child.on('message', (port) => {
    const socket = require('net').connect(port, '127.0.0.1', () => resolve(socket));
    socket.on('data', (text) => text.forEach(() => waiting.shift()()));
  }));
  return async () => {
    const socket = await opened;
    await new Promise((resolve) => { waiting.push(resolve); socket.write('.'); });
  };
}

const fetchValue = STORE && openStore();
let turn = 0;

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://app');
  const [pattern, id] = url.pathname.slice(1).split('/');
  if (pattern === 'jobs') {
    const idle = !jobs;
    jobs = id === 'on';
    if (jobs && idle) background();
    return response.end('ok');
  }
  const urls = paths(pattern, id, url.searchParams.get('ids') === 'kept');
  if (pattern === 'late') {
    response.end('ok');
    await sleep(2);
    return call(urls[0]);
  }
  await serve(pattern, urls);
  response.end('ok');
});

async function background() {
  for (; jobs; number++) {
    await call(`/background/${number}`);
    await call(`/background/${++number}`);
    await sleep(Number(process.env.JOB_EACH || 5));
  }
}

server.listen({ port: Number(PORT), host: '127.0.0.1', backlog: 512 });
