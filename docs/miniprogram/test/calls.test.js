// What each call of the client sends and returns, against the real gateway.
'use strict';
const { once } = require('node:events');
const { test } = require('node:test');
const assert = require('node:assert/strict');
const { createClient } = require('../wxgate.js');
const { freePort } = require('./binary.js');
const { sentHeader, storedToken, useSandbox } = require('./phone.js');

const sandbox = useSandbox();

test('uploads carry the session and recover from a dead one', async () => {
  const wx = sandbox.phone('ray');
  wx.files.set('wxfile://photo', 'the picture');
  const client = sandbox.open();
  await client.login();
  await sandbox.revokeBehind(wx);
  const response = await client.uploadFile({ url: '/photos', filePath: 'wxfile://photo', name: 'photo', formData: { album: '7' } });

  assert.equal(response.statusCode, 200);
  const echo = JSON.parse(response.data);
  assert.equal(sentHeader(echo, 'X-OpenID').length, 1);
  assert.match(echo.body, /the picture/);
  assert.match(echo.body, /name="album"\r\n\r\n7/);
  assert.equal(wx.logins, 2);
});

for (const filePath of [undefined, 'wxfile://usr/report']) {
  test(`downloads carry the session and recover from a dead one: ${filePath ? 'to a path' : 'to a temporary file'}`, async () => {
    const wx = sandbox.phone('sue');
    const client = sandbox.open();
    await client.login();
    await sandbox.revokeBehind(wx);
    const response = await client.downloadFile({ url: '/report', filePath });

    assert.equal(response.statusCode, 200);
    const echo = JSON.parse(wx.files.get(filePath || response.tempFilePath));
    assert.equal(sentHeader(echo, 'X-OpenID').length, 1);
    assert.equal(wx.logins, 2);
  });
}

const deliveries = {
  'as text': { dataType: '其他' },
  'as an ArrayBuffer': { responseType: 'arraybuffer' },
  'in chunks': { enableChunked: true },
};
for (const [name, options] of Object.entries(deliveries)) {
  test(`a refusal is recognised ${name}`, async () => {
    const wx = sandbox.phone('tom');
    const client = sandbox.open();
    await client.login();
    await sandbox.revokeBehind(wx);
    let chunks = [];
    const response = await client.request({
      url: '/me',
      ...options,
      onTask: (task) => {
        chunks = []; // A replay starts afresh.
        task.onChunkReceived((chunk) => chunks.push(Buffer.from(chunk.data)));
      },
    });
    assert.equal(response.statusCode, 200);
    assert.equal(wx.logins, 2);
    const body = options.enableChunked ? Buffer.concat(chunks) : response.data;
    const text = typeof body === 'string' ? body : Buffer.from(body).toString();
    assert.equal(sentHeader(JSON.parse(text), 'X-OpenID').length, 1);
  });
}

test('a socket carries the session in its handshake', async () => {
  const wx = sandbox.phone('una');
  const client = sandbox.open();
  let options;
  const { connectSocket } = wx;
  wx.connectSocket = (params) => {
    options = params;
    return connectSocket.call(wx, params);
  };
  const socket = await client.connectSocket({ url: '/chat', header: { 'X-Room': '7' }, protocols: ['v1'] });
  socket.close();

  assert.equal(options.url, `${sandbox.url.replace('http', 'ws')}/chat`);
  assert.deepEqual(options.header, { 'X-Room': '7', '3rd_session': storedToken(wx), Authorization: `Bearer ${storedToken(wx)}` });
  assert.deepEqual(options.protocols, ['v1']);
});

test('an anonymous request neither logs in nor carries the session', async () => {
  const wx = sandbox.phone('vic');
  const client = sandbox.open();
  const seen = [];
  wx.on('request', ({ header }) => seen.push(header));
  const response = await client.request({ url: '/public', anonymous: true });
  assert.equal(response.statusCode, 401); // The sandbox has no public path.
  assert.equal(wx.logins, 0);
  assert.equal(seen[0]['3rd_session'], undefined);
});

test('the caller cannot send another token beside the session', async () => {
  const wx = sandbox.phone('wes');
  const client = sandbox.open();
  const seen = [];
  wx.on('request', ({ url, header }) => { if (url.endsWith('/mine')) seen.push(header); });
  const response = await client.request({ url: '/mine', header: { '3RD_Session': 'forged', 'X-Mine': 'kept' } });
  assert.equal(response.statusCode, 200);
  assert.deepEqual(seen, [{
    'content-type': 'application/json', 'X-Mine': 'kept', '3rd_session': storedToken(wx), Authorization: `Bearer ${storedToken(wx)}`,
  }]);
});

test('an Authorization of the application stays', async () => {
  const wx = sandbox.phone('wil');
  const client = sandbox.open();
  const seen = [];
  wx.on('request', ({ url, header }) => { if (url.endsWith('/mine')) seen.push(header); });
  const response = await client.request({ url: '/mine', header: { authorization: 'Basic bWU6cGFzcw==' } });
  assert.equal(response.statusCode, 200);
  assert.deepEqual(seen, [{ 'content-type': 'application/json', authorization: 'Basic bWU6cGFzcw==', '3rd_session': storedToken(wx) }]);
  assert.deepEqual(sentHeader(response.data, 'Authorization'), ['Basic bWU6cGFzcw==']);
});

test('a header with an underscore may be lost on the way', async () => {
  const wx = sandbox.phone('win');
  const client = sandbox.open({
    request(params) {
      const header = { ...params.header };
      delete header['3rd_session']; // as nginx and many a CDN do
      return wx.request({ ...params, header });
    },
  });
  const response = await client.request({ url: '/me' });
  assert.equal(response.statusCode, 200);
  assert.deepEqual(sentHeader(response.data, 'Authorization'), []);
  assert.equal(wx.logins, 1);
});

test('a status that is a text is a number', async () => {
  const wx = sandbox.phone('wyn'); // as HarmonyOS answers
  for (const api of ['request', 'uploadFile', 'downloadFile']) {
    const call = wx[api];
    wx[api] = (params) => call.call(wx, {
      ...params, success: (result) => params.success({ ...result, statusCode: String(result.statusCode) }),
    });
  }
  wx.files.set('photo', 'bytes');
  const client = sandbox.open();
  assert.equal((await client.uploadFile({ url: '/photos', filePath: 'photo', name: 'photo' })).statusCode, 200);
  await sandbox.revokeBehind(wx);
  assert.equal((await client.downloadFile({ url: '/report' })).statusCode, 200);
  assert.equal(wx.logins, 2);
});

test('a session that may be dead is tried before an upload', async () => {
  const wx = sandbox.phone('xan');
  wx.files.set('photo', 'bytes');
  await sandbox.open().login();
  await sandbox.revokeBehind(wx);

  const client = sandbox.open(); // the mini program starts again
  const seen = [];
  wx.on('request', ({ api, url }) => seen.push(`${api} ${new URL(url).pathname}`));
  const tasks = [];
  const upload = () => client.uploadFile({ url: '/photos', filePath: 'photo', name: 'photo', onTask: (task) => tasks.push(task) });
  assert.equal((await upload()).statusCode, 200);
  assert.deepEqual(seen, ['request /photos', 'request /login', 'request /photos', 'uploadFile /photos']);
  assert.equal(tasks.length, 1);
  assert.equal((await upload()).statusCode, 200);
  assert.deepEqual(seen.slice(4), ['uploadFile /photos']);
});

for (const url of ['https://elsewhere.example/', 'orders', '', '@elsewhere.example/', '.elsewhere.example/', undefined]) {
  test(`the token goes nowhere but to the gateway: ${url}`, async () => {
    const wx = sandbox.phone('xia');
    let calls = 0;
    wx.on('request', () => { calls += 1; });
    const client = sandbox.open();
    for (const api of ['request', 'uploadFile', 'downloadFile', 'connectSocket']) {
      await assert.rejects(client[api]({ url }), TypeError);
      await assert.rejects(client[api]({ url: `${sandbox.url}0/${url}` }), TypeError); // a longer port
    }
    assert.equal(calls, 0);
    assert.equal(wx.logins, 0);
  });
}

test('a path with two slashes in front is a path of the gateway', async () => {
  const wx = sandbox.phone('xia');
  const origins = new Set();
  wx.on('request', ({ url }) => origins.add(new URL(url).origin));
  await sandbox.open().request({ url: '//elsewhere.example/' });
  assert.deepEqual(origins, new Set([sandbox.url]));
});

test('an absolute address under baseURL is the same as its path', async () => {
  sandbox.phone('yan');
  const response = await sandbox.open().request({ url: `${sandbox.url}/orders` });
  assert.equal(response.data.path, '/orders');
});

for (const baseURL of [undefined, '', 'api.example.com', 'ftp://a', 'https://', 'https://a/?b', 'https://a@b', 'https://a#b']) {
  test(`baseURL is checked: ${baseURL}`, () => {
    assert.throws(() => createClient({ baseURL }), TypeError);
  });
}

test('an option that is undefined has its default', async () => {
  sandbox.phone('yul');
  const client = sandbox.open({ loginPath: undefined, tokenHeader: undefined, concurrency: undefined });
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
});

test('an unknown option is refused', () => {
  assert.throws(() => sandbox.open({ tokenheader: 'X-Session' }), /no option tokenheader/);
});

for (const concurrency of [0, -1, NaN, null]) {
  test(`concurrency is checked: ${concurrency}`, () => {
    assert.throws(() => sandbox.open({ concurrency }), TypeError);
  });
}

for (const name of ['success', 'fail', 'complete']) {
  test(`a callback is refused rather than ignored: ${name}`, async () => {
    sandbox.phone('zoe');
    await assert.rejects(sandbox.open().request({ url: '/me', [name]: () => {} }), /takes no success, fail or complete/);
  });
}

test('a request can be aborted while it runs', async () => {
  const wx = sandbox.phone('abe');
  const client = sandbox.open();
  await client.login();
  const ended = once(wx, 'response');
  const request = client.request({ url: '/me', onTask: () => queueMicrotask(() => request.abort()) });
  await assert.rejects(request, { code: 'aborted', errMsg: 'request:fail abort' });
  const [{ result }] = await ended;
  assert.equal(result.errMsg, 'request:fail abort');
  assert.equal(wx.running, 0);
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
});

test('a request that is aborted while it waits is never sent', async () => {
  const wx = sandbox.phone('bea');
  const client = sandbox.open({ concurrency: 1 });
  const sent = [];
  wx.on('request', ({ url }) => sent.push(new URL(url).pathname));
  const first = client.request({ url: '/first' });
  const waiting = client.request({ url: '/waiting' });
  waiting.abort();
  await assert.rejects(waiting, { code: 'aborted' });
  await first;
  const queued = client.request({ url: '/queued' });
  const last = client.request({ url: '/last' });
  const behind = client.request({ url: '/behind' });
  queueMicrotask(() => behind.abort());
  await assert.rejects(behind, { code: 'aborted' });
  await Promise.all([queued, last]);
  assert.deepEqual(sent, ['/login', '/first', '/queued', '/last']);
});

test('a request that the platform fails is reported with its reason', async () => {
  sandbox.phone('cid');
  const client = createClient({ baseURL: `http://127.0.0.1:${await freePort()}` });
  await assert.rejects(client.request({ url: '/me' }), (error) => {
    assert.equal(error.name, 'WxgateError');
    assert.equal(error.code, 'network');
    assert.match(error.errMsg, /^request:fail/);
    return error instanceof Error;
  });
});

// promised makes a function of wx answer as Taro's do: through callbacks and through a promise.
function promised(call) {
  return (params) => new Promise((resolve, reject) => {
    call({
      ...params,
      success: (result) => { params.success(result); resolve(result); },
      fail: (failure) => { params.fail(failure); reject(failure); },
    });
  });
}

test('it runs on a platform that is passed in and answers with promises too', async () => {
  const wx = sandbox.phone('dee');
  delete globalThis.wx;
  const kept = new Map();
  const platform = {
    request: promised((params) => wx.request(params)),
    login: promised((params) => wx.login(params)),
    storage: { get: (key) => kept.get(key), set: (key, value) => kept.set(key, value), remove: (key) => kept.delete(key) },
  };
  const client = sandbox.open(platform);
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal(kept.size, 1);
  await assert.rejects(client.downloadFile({ url: '/me' }), /has no wx.downloadFile; pass downloadFile to createClient/);

  // The platform's own promise rejects as well, and only the client has to handle it.
  const unreachable = createClient({ ...platform, baseURL: `http://127.0.0.1:${await freePort()}` });
  await assert.rejects(unreachable.request({ url: '/me' }), { code: 'network' });
});
