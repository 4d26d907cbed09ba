// The real gateway, built once and run as its users run it.
'use strict';
const { execFileSync, spawn } = require('node:child_process');
const net = require('node:net');
const path = require('node:path');

const repository = path.resolve(__dirname, '../../..');

// binary returns the gateway's path: WXGATE_BINARY, or else a fresh build of this checkout.
function binary() {
  if (process.env.WXGATE_BINARY) return path.resolve(process.env.WXGATE_BINARY);
  const built = path.join(repository, '.build', 'wxgate');
  execFileSync('go', ['build', '-o', built, './caddy-build'], { cwd: repository, stdio: 'inherit' });
  return built;
}

// freePort returns a port of 127.0.0.1 that was free a moment ago.
function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// start runs a program and resolves when ready() does to true. If the program ends before, the rejection
// holds what it printed.
async function start(command, args, { ready, env = {} }) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let printed = '';
  child.stdout.on('data', (text) => { printed += text; });
  child.stderr.on('data', (text) => { printed += text; });
  child.on('error', (error) => { printed += error.message; });
  const ended = new Promise((resolve) => child.on('close', resolve));
  process.once('exit', () => child.kill('SIGKILL')); // Nothing is left behind if the tests end early.
  const stop = () => {
    child.kill('SIGTERM');
    return ended;
  };

  // It gets three minutes, since the machine may be busy with other tests.
  for (let attempts = 1800; !await ready(); attempts -= 1) {
    if (child.exitCode !== null || child.pid === undefined || attempts === 0) {
      await stop();
      throw new Error(`starting ${command} ${args.join(' ')}:\n${printed}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return { child, stop };
}

// answersOK tells whether a GET of url is answered with 200.
async function answersOK(url) {
  try {
    const response = await fetch(url);
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false;
  }
}

// listens tells whether something accepts connections on the port.
function listens(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

module.exports = { answersOK, binary, freePort, listens, start };
