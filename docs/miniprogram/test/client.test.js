// The client against the real gateway: `wxgate demo`, with its sandbox in WeChat's place.
'use strict';
const { after, afterEach, before, test } = require('node:test');
const assert = require('node:assert/strict');
const { createClient } = require('../wxgate.js');
const { freePort } = require('./binary.js');
const { startSandbox } = require('./sandbox.js');
const { FakeWx } = require('./wx.js');

let sandbox;
let phones = [];

before(async () => { sandbox = await startSandbox(); });
after(() => sandbox.stop());
afterEach(() => {
  phones.forEach((wx) => wx.close());
  phones = [];
  delete globalThis.wx;
});

// phone makes the wx of one user's phone the global one, as in a mini program.
function phone(user) {
  const wx = new FakeWx({ appid: 'wx0123456789abcdef', newCode: () => sandbox.newCode(user) });
  phones.push(wx);
  globalThis.wx = wx;
  return wx;
}

function open(options) {
  return createClient({ baseURL: sandbox.url, ...options });
}

// storedToken is the token that the client keeps, for revoking it behind the client's back.
function storedToken(wx) {
  const [value] = wx.stored.values();
  return JSON.parse(value).token;
}

async function revokeBehind(wx) {
  await sandbox.revoke(storedToken(wx));
}

function headerOf(response, name) {
  const found = Object.keys(response.data.headers).filter((key) => key.toLowerCase() === name.toLowerCase());
  return found.flatMap((key) => response.data.headers[key]);
}

test('the first request logs in and reaches the upstream with an openid and no token', async () => {
  const wx = phone('ann');
  const response = await open().request({ url: '/orders?page=2', method: 'POST', data: { item: 1 } });

  assert.equal(response.statusCode, 200);
  assert.equal(response.data.method, 'POST');
  assert.equal(response.data.body, '{"item":1}');
  assert.equal(headerOf(response, 'X-OpenID').length, 1);
  assert.deepEqual(headerOf(response, '3rd_session'), []);
  assert.equal(wx.logins, 1);
});

test('parallel first requests share one login', async () => {
  const wx = phone('ben');
  const exchanges = await sandbox.exchanges();
  const client = open();
  const responses = await Promise.all(numbers(20).map((n) => client.request({ url: `/page/${n}` })));

  assert.deepEqual(responses.map((response) => response.statusCode), Array(20).fill(200));
  assert.equal(wx.logins, 1);
  assert.equal(await sandbox.exchanges() - exchanges, 1);
});

test('50 parallel requests with an expired session: one login, every request answered once', async () => {
  const wx = phone('cat');
  const client = open();
  await client.request({ url: '/warm-up' });
  await revokeBehind(wx);

  const exchanges = await sandbox.exchanges();
  const sent = new Map();
  wx.on('request', ({ url }) => sent.set(url, (sent.get(url) || 0) + 1));
  let answers = 0;
  const responses = await Promise.all(numbers(50).map((n) =>
    client.request({ url: `/item/${n}`, method: 'POST', data: { n } }).finally(() => { answers += 1; })));

  assert.equal(answers, 50);
  responses.forEach((response, n) => {
    assert.equal(response.statusCode, 200);
    assert.equal(response.data.body, `{"n":${n}}`);
    assert.ok(sent.get(`${sandbox.url}/item/${n}`) <= 2, 'a request was replayed more than once');
  });
  assert.equal(wx.logins, 2);
  assert.equal(await sandbox.exchanges() - exchanges, 1);
  assert.ok(wx.mostRunning <= 10, `${wx.mostRunning} requests at once`);
});

test('the session is used again after the mini program restarts', async () => {
  const wx = phone('dan');
  await open().request({ url: '/me' });
  const response = await open().request({ url: '/again' });

  assert.equal(response.statusCode, 200);
  assert.equal(wx.logins, 1);
});

test('a session past its lifetime is replaced before it is sent', async () => {
  const wx = phone('eve');
  await open().request({ url: '/me' });
  const [[key, value]] = wx.stored;
  wx.stored.set(key, JSON.stringify({ ...JSON.parse(value), expiresAt: Date.now() - 1 }));

  const refusals = [];
  wx.on('response', ({ result }) => { if (result.statusCode === 401) refusals.push(result); });
  const response = await open().request({ url: '/me' });
  assert.equal(response.statusCode, 200);
  assert.equal(wx.logins, 2);
  assert.deepEqual(refusals, []);
});

for (const stored of ['', 'not json', '{"token":1,"expiresAt":9e15}', '{"token":"x"}', 'null', '[]']) {
  test(`what is in the storage is not trusted: ${stored || 'nothing'}`, async () => {
    const wx = phone('fay');
    wx.setStorageSync(`wxgate:${sandbox.url}`, stored);
    assert.equal((await open().request({ url: '/me' })).statusCode, 200);
    assert.equal(wx.logins, 1);
  });
}

test('a full storage costs a login at the next start and nothing more', async () => {
  const wx = phone('gil');
  wx.setStorageSync = () => { throw new Error('setStorageSync:fail exceed storage max size 10Mb'); };
  const client = open();
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal(wx.logins, 1);
});

test('a late refusal does not clear the session that another request brought', async () => {
  const wx = phone('hal');
  const late = holdBack(wx, '/late');
  const client = open({ request: late.request });
  await client.request({ url: '/warm-up' });
  await revokeBehind(wx);

  const slow = client.request({ url: '/late' });
  await late.held;
  assert.equal((await client.request({ url: '/early' })).statusCode, 200);
  const newer = storedToken(wx);
  late.release();

  assert.equal((await slow).statusCode, 200);
  assert.equal(storedToken(wx), newer);
  assert.equal(wx.logins, 2);
});

test('a header that is lost on the way ends in 401 and not in a loop of logins', async () => {
  const wx = phone('ida');
  const client = open({
    request: (params) => wx.request({ ...params, header: omit(params.header, '3rd_session') }),
  });
  const first = await client.request({ url: '/me' });
  assert.equal(first.statusCode, 401);
  assert.equal(first.data.error, 'missing_session');
  const responses = await Promise.all(numbers(20).map(() => client.request({ url: '/me' })));
  assert.deepEqual(new Set(responses.map((response) => response.statusCode)), new Set([401]));
  assert.equal(wx.logins, 2);
});

test('logout ends the session at the gateway and on the phone', async () => {
  const wx = phone('jim');
  const client = open();
  await client.request({ url: '/me' });
  const token = storedToken(wx);
  await client.logout();

  assert.equal(wx.stored.size, 0);
  const { status } = await fetch(`${sandbox.url}/me`, { headers: { '3rd_session': token } });
  assert.equal(status, 401);
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal(wx.logins, 2);
});

test('logout of a session that is dead already succeeds', async () => {
  const wx = phone('kim');
  const client = open();
  await client.login();
  await revokeBehind(wx);
  await client.logout();
  assert.equal(wx.logins, 1);
});

test('logout without a session asks nobody', async () => {
  const wx = phone('leo');
  let requests = 0;
  wx.on('request', () => { requests += 1; });
  await open().logout();
  assert.equal(requests, 0);
});

test('logout forgets the session even if the gateway is out of reach', async () => {
  const wx = phone('mia');
  await open().login();
  const client = createClient({ baseURL: `http://127.0.0.1:${await freePort()}`, storageKey: `wxgate:${sandbox.url}` });
  await assert.rejects(client.logout(), { name: 'WxgateError', code: 'network', errno: 600001 });
  assert.equal(wx.stored.size, 0);
});

test('logout waits for a login under way and ends its session too', async () => {
  const wx = phone('ned');
  const client = open();
  const loggedIn = client.login();
  await client.logout();
  await loggedIn;
  assert.equal(wx.stored.size, 0);
});

test('a request under way at logout does not log in again', async () => {
  const wx = phone('ora');
  const late = holdBack(wx, '/late', 'request');
  const client = open({ request: late.request });
  await client.request({ url: '/warm-up' });
  const slow = client.request({ url: '/late' });
  await late.held;
  await client.logout();
  late.release();

  const response = await slow;
  assert.equal(response.statusCode, 401);
  assert.equal(response.data.error, 'invalid_session');
  assert.equal(wx.logins, 1);
  assert.equal(wx.stored.size, 0);
});

test('login keeps a live session and replaces it when told to', async () => {
  const wx = phone('pam');
  const client = open();
  await Promise.all([client.login(), client.login()]);
  const first = storedToken(wx);
  await client.login();
  assert.equal(storedToken(wx), first);
  await client.login({ force: true });
  assert.notEqual(storedToken(wx), first);
  assert.equal(wx.logins, 2);
});

test('wx.login that fails is reported and tried again by the next request', async () => {
  const wx = phone('quy');
  const { newCode } = wx;
  wx.newCode = () => Promise.reject(new Error('offline'));
  const client = open();
  await assert.rejects(client.request({ url: '/me' }), { code: 'wx_login_failed', errMsg: 'login:fail system error' });
  wx.newCode = newCode;
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
});

test('uploads carry the session and recover from a dead one', async () => {
  const wx = phone('ray');
  wx.files.set('wxfile://photo', 'the picture');
  const client = open();
  await client.login();
  await revokeBehind(wx);
  const response = await client.uploadFile({ url: '/photos', filePath: 'wxfile://photo', name: 'photo', formData: { album: '7' } });

  assert.equal(response.statusCode, 200);
  const seen = { data: JSON.parse(response.data) };
  assert.equal(headerOf(seen, 'X-OpenID').length, 1);
  assert.match(seen.data.body, /the picture/);
  assert.match(seen.data.body, /name="album"\r\n\r\n7/);
  assert.equal(wx.logins, 2);
});

for (const filePath of [undefined, 'wxfile://usr/report']) {
  test(`downloads carry the session and recover from a dead one: ${filePath ? 'to a path' : 'to a temporary file'}`, async () => {
    const wx = phone('sue');
    const client = open();
    await client.login();
    await revokeBehind(wx);
    const response = await client.downloadFile({ url: '/report', filePath });

    assert.equal(response.statusCode, 200);
    const seen = { data: JSON.parse(wx.files.get(filePath || response.tempFilePath)) };
    assert.equal(headerOf(seen, 'X-OpenID').length, 1);
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
    const wx = phone('tom');
    const client = open();
    await client.login();
    await revokeBehind(wx);
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
    assert.equal(headerOf({ data: JSON.parse(text) }, 'X-OpenID').length, 1);
  });
}

test('a socket carries the session in its handshake', async () => {
  const wx = phone('una');
  const client = open();
  let options;
  const { connectSocket } = wx;
  wx.connectSocket = (params) => {
    options = params;
    return connectSocket.call(wx, params);
  };
  const socket = await client.connectSocket({ url: '/chat', header: { 'X-Room': '7' }, protocols: ['v1'] });
  socket.close();

  assert.equal(options.url, `${sandbox.url.replace('http', 'ws')}/chat`);
  assert.deepEqual(options.header, { 'X-Room': '7', '3rd_session': storedToken(wx) });
  assert.deepEqual(options.protocols, ['v1']);
});

test('an anonymous request neither logs in nor carries the session', async () => {
  const wx = phone('vic');
  const client = open();
  const seen = [];
  wx.on('request', ({ header }) => seen.push(header));
  const response = await client.request({ url: '/public', anonymous: true });
  assert.equal(response.statusCode, 401); // The sandbox has no public path.
  assert.equal(wx.logins, 0);
  assert.equal(seen[0]['3rd_session'], undefined);
});

test('the caller cannot send another token beside the session', async () => {
  const wx = phone('wes');
  const client = open();
  const seen = [];
  wx.on('request', ({ url, header }) => { if (url.endsWith('/mine')) seen.push(header); });
  const response = await client.request({ url: '/mine', header: { '3RD_Session': 'forged', 'X-Mine': 'kept' } });
  assert.equal(response.statusCode, 200);
  assert.deepEqual(seen, [{ 'content-type': 'application/json', 'X-Mine': 'kept', '3rd_session': storedToken(wx) }]);
});

const elsewhere = [
  'https://elsewhere.example/', '//elsewhere.example/', 'orders', '', '@elsewhere.example/', '.elsewhere.example/',
];
for (const url of elsewhere) {
  test(`the token goes nowhere but to the gateway: ${JSON.stringify(url)}`, async () => {
    const wx = phone('xia');
    const hosts = [];
    wx.on('request', (request) => hosts.push(new URL(request.url).origin));
    const client = open();
    if (url.startsWith('//')) {
      await client.request({ url }); // A path of the gateway that begins with two slashes.
      assert.deepEqual(new Set(hosts), new Set([sandbox.url]));
      return;
    }
    for (const api of ['request', 'uploadFile', 'downloadFile', 'connectSocket']) {
      await assert.rejects(client[api]({ url: url === '' ? '' : url, name: 'f', filePath: 'f' }), TypeError);
      await assert.rejects(client[api]({ url: `${sandbox.url}${url.startsWith('http') ? '0/' : `x${url}`}` }), TypeError);
    }
    assert.deepEqual(hosts, []);
    assert.equal(wx.logins, 0);
  });
}

test('an absolute address under baseURL is the same as its path', async () => {
  phone('yan');
  const response = await open().request({ url: `${sandbox.url}/orders` });
  assert.equal(response.data.path, '/orders');
});

for (const baseURL of [undefined, '', 'api.example.com', 'ftp://a', 'https://', 'https://a/?b', 'https://a@b', 'https://a#b']) {
  test(`baseURL is checked: ${baseURL}`, () => {
    assert.throws(() => createClient({ baseURL }), TypeError);
  });
}

for (const name of ['success', 'fail', 'complete']) {
  test(`a callback is refused rather than ignored: ${name}`, async () => {
    phone('zoe');
    await assert.rejects(open().request({ url: '/me', [name]: () => {} }), /takes no success, fail or complete/);
  });
}

test('a request can be aborted while it runs', async () => {
  const wx = phone('abe');
  const client = open();
  await client.login();
  const request = client.request({ url: '/me', onTask: () => setImmediate(() => request.abort()) });
  await assert.rejects(request, { code: 'aborted', errMsg: 'request:fail abort' });
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal(wx.running, 0);
});

test('a request that is aborted while it waits is never sent', async () => {
  const wx = phone('bea');
  const client = open({ concurrency: 1 });
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
  phone('cid');
  const client = createClient({ baseURL: `http://127.0.0.1:${await freePort()}` });
  await assert.rejects(client.request({ url: '/me' }), (error) => {
    assert.equal(error.name, 'WxgateError');
    assert.equal(error.code, 'network');
    assert.match(error.errMsg, /^request:fail/);
    return error instanceof Error;
  });
});

// Taro and uni-app differ from wx in what they return; the client takes both.
test('it runs on a platform that is passed in and answers with promises too', async () => {
  const wx = phone('dee');
  delete globalThis.wx;
  const promised = (call) => (params) => {
    const promise = new Promise((resolve, reject) => {
      call({
        ...params,
        success: (result) => { params.success(result); resolve(result); },
        fail: (failure) => { params.fail(failure); reject(failure); },
      });
    });
    promise.abort = () => {};
    return promise;
  };
  const kept = new Map();
  const client = open({
    request: promised((params) => wx.request(params)),
    login: promised((params) => wx.login(params)),
    storage: { get: (key) => kept.get(key), set: (key, value) => kept.set(key, value), remove: (key) => kept.delete(key) },
  });
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal(kept.size, 1);
  await assert.rejects(client.downloadFile({ url: '/me' }), /has no wx.downloadFile; pass downloadFile to createClient/);

  const unreachable = createClient({ ...client, baseURL: `http://127.0.0.1:${await freePort()}`,
    request: promised((params) => wx.request(params)), login: promised((params) => wx.login(params)),
    storage: { get: () => '', set: () => {}, remove: () => {} } });
  await assert.rejects(unreachable.request({ url: '/me' }), { code: 'network' });
});

// holdBack delays one request to a path, before it is sent or after it was answered, until released.
function holdBack(wx, path, what = 'response') {
  let release;
  let reached;
  const released = new Promise((resolve) => { release = resolve; });
  const held = new Promise((resolve) => { reached = resolve; });
  const once = { done: false };
  const request = (params) => {
    if (!params.url.endsWith(path) || once.done) return wx.request(params);
    once.done = true;
    if (what === 'request') {
      reached();
      released.then(() => wx.request(params));
      return undefined;
    }
    return wx.request({
      ...params,
      success: (result) => {
        reached();
        released.then(() => params.success(result));
      },
    });
  };
  return { request, held, release };
}

function omit(object, name) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => key !== name));
}

function numbers(count) {
  return Array.from({ length: count }, (_, n) => n);
}
