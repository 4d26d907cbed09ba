// Starts `caddy wxgate demo` and a browser that looks at it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts the binary in WXGATE_BINARY; the result has the demo's url and stop(). */
export async function startDemo() {
  const binary = process.env.WXGATE_BINARY;
  if (!binary) throw new Error('WXGATE_BINARY must name the gateway: make build');
  const url = `http://127.0.0.1:${await freePort()}/`;
  const child = spawn(binary, ['wxgate', 'demo', '--listen', new URL(url).host], { stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith('Press Ctrl+C')) break;
  }
  child.stdout.resume();
  return { url, stop: async () => { child.kill(); await once(child, 'exit'); } };
}

/** Debian's chromium; it asks for nothing from elsewhere. */
export function startBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}
