// The gateway with a Caddyfile of the test's own, WeChat's part played at the network as the test
// scripts it, and an upstream that answers what the test says.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { answersOK, binary, freePort, listens, start } = require('./binary.js');

const APPID = 'wx0123456789abcdef';

// startWeChat answers code2Session: with the next reply of `script`, or else with a session whose
// openid is the code. It gives access_tokens, and a phone number for each code that begins with phone-.
async function startWeChat() {
  const wechat = { codes: [], script: [], phoneCodes: [] };
  const server = await listen((request, response, sent) => {
    if (request.url === '/cgi-bin/stable_token') {
      response.end(JSON.stringify({ access_token: 'token', expires_in: 7200 }));
      return;
    }
    if (request.url.startsWith('/wxa/business/getuserphonenumber?')) {
      const { code } = JSON.parse(sent);
      wechat.phoneCodes.push(code);
      const watermark = { appid: APPID, timestamp: Math.floor(Date.now() / 1000) };
      const phone = { phoneNumber: '13800000000', purePhoneNumber: '13800000000', countryCode: 86, watermark };
      response.end(JSON.stringify(code.startsWith('phone-') ? { errcode: 0, phone_info: phone } : { errcode: 40029 }));
      return;
    }
    const code = new URL(request.url, 'http://wechat').searchParams.get('js_code');
    wechat.codes.push(code);
    const reply = wechat.script.shift() || { openid: code, session_key: 'tiihtNczf5v6AKRyjwEUhQ==' };
    response.setHeader('Content-Type', 'text/plain');
    response.end(JSON.stringify(reply));
  });
  let codes = 0;
  wechat.newCode = async () => `code-${codes += 1}`;
  wechat.url = server.url;
  wechat.stop = server.stop;
  return wechat;
}

// startUpstream answers 200 with the openid that it received, or with what `answers` has for the path, and
// accepts every WebSocket.
async function startUpstream(answers) {
  const upstream = { seen: [] };
  const server = await listen((request, response, sent) => {
    upstream.seen.push({ path: request.url, method: request.method, headers: request.headers, body: sent });
    const { status = 200, header = {}, body = { openid: request.headers['x-openid'] } } = answers[request.url] || {};
    response.writeHead(status, { 'Content-Type': 'application/json', ...header });
    response.end(typeof body === 'string' ? body : JSON.stringify(body));
  });
  server.on('upgrade', (request, socket) => {
    upstream.seen.push({ path: request.url, method: request.method, headers: request.headers });
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    socket.on('error', () => {}).on('end', () => socket.end());
  });
  upstream.url = server.url;
  upstream.stop = server.stop;
  return upstream;
}

// startGateway runs the binary with one site for each entry of `sites`, whose lines go into the site's wxgate
// block, as the lines of `app` go into the global one. The sites share the app and its sessions.
async function startGateway({ wechat, upstream, app = '', sites = [''], store }) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'wxgate-client-'));
  const ports = [];
  for (const _ of sites) ports.push(await freePort());
  const global = `{
    admin off
    servers {
        expected_underscore_headers 3rd_session
    }
    wxgate {
        miniprogram ${APPID} {env.WX_SECRET}
        wechat_api ${wechat.url}
        store ${store || `badger ${path.join(directory, 'sessions')}`}
        ${app}
    }
}
`;
  const site = (lines, n) => `http://127.0.0.1:${ports[n]} {
    wxgate {
        health /ready
        ${lines}
    }
    reverse_proxy ${upstream.url}
}
`;
  const config = path.join(directory, 'Caddyfile');
  fs.writeFileSync(config, global + sites.map(site).join(''));
  const { stop } = await start(binary(), ['run', '--config', config], {
    // A site listens before the app has its store, so a connection alone does not tell.
    ready: () => answersOK(`http://127.0.0.1:${ports[0]}/ready`),
    env: { WX_SECRET: 'sandbox', XDG_DATA_HOME: directory, XDG_CONFIG_HOME: directory },
  });
  const urls = ports.map((port) => `http://127.0.0.1:${port}`);
  return {
    url: urls[0],
    urls,
    stop: async () => {
      await stop();
      fs.rmSync(directory, { recursive: true });
    },
  };
}

// startRedis runs a real redis-server; pause and resume make it hang and go on.
async function startRedis() {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'wxgate-redis-'));
  const port = await freePort();
  const { child, stop } = await start('redis-server',
    ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', directory],
    { ready: () => listens(port) });
  return {
    address: `127.0.0.1:${port}`,
    pause: () => child.kill('SIGSTOP'),
    resume: () => child.kill('SIGCONT'),
    stop: async () => {
      child.kill('SIGCONT');
      await stop();
      fs.rmSync(directory, { recursive: true });
    },
  };
}

function listen(handler) {
  return new Promise((resolve, reject) => {
    const server = http.createServer((request, response) => {
      const chunks = [];
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', () => handler(request, response, Buffer.concat(chunks).toString()));
    });
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => resolve({
      url: `http://127.0.0.1:${server.address().port}`,
      on: (event, listener) => server.on(event, listener),
      stop: () => new Promise((closed) => {
        server.close(closed);
        server.closeAllConnections();
      }),
    }));
  });
}

module.exports = { APPID, startGateway, startRedis, startUpstream, startWeChat };
