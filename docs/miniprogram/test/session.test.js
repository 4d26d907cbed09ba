// How the client gets, keeps, replaces and ends its session, against the real gateway: `wxgate demo`,
// with its sandbox in WeChat's place.
'use strict';
const { test } = require('node:test');
const assert = require('node:assert/strict');
const { createClient } = require('../wxgate.js');
const { freePort } = require('./binary.js');
const { numbers, sentHeader, storedToken, useSandbox } = require('./phone.js');

const sandbox = useSandbox();

test('the first request logs in and reaches the upstream with an openid and no token', async () => {
  const wx = sandbox.phone('ann');
  const response = await sandbox.open().request({ url: '/orders?page=2', method: 'POST', data: { item: 1 } });

  assert.equal(response.statusCode, 200);
  assert.equal(response.data.method, 'POST');
  assert.equal(response.data.body, '{"item":1}');
  assert.equal(sentHeader(response.data, 'X-OpenID').length, 1);
  assert.deepEqual(sentHeader(response.data, '3rd_session'), []);
  assert.deepEqual(sentHeader(response.data, 'Authorization'), []);
  assert.equal(wx.logins, 1);
});

test('parallel first requests share one login', async () => {
  const wx = sandbox.phone('ben');
  const exchanges = await sandbox.exchanges();
  const client = sandbox.open();
  const responses = await Promise.all(numbers(20).map((n) => client.request({ url: `/page/${n}` })));

  assert.deepEqual(responses.map((response) => response.statusCode), Array(20).fill(200));
  assert.equal(wx.logins, 1);
  assert.equal(await sandbox.exchanges() - exchanges, 1);
});

test('50 parallel requests with an expired session: one login, every request answered once', async () => {
  const wx = sandbox.phone('cat');
  const client = sandbox.open();
  await client.request({ url: '/warm-up' });
  await sandbox.revokeBehind(wx);

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
  const wx = sandbox.phone('dan');
  await sandbox.open().request({ url: '/me' });
  const response = await sandbox.open().request({ url: '/again' });

  assert.equal(response.statusCode, 200);
  assert.equal(wx.logins, 1);
});

test('a session past its lifetime is replaced before it is sent', async () => {
  const wx = sandbox.phone('eve');
  await sandbox.open().request({ url: '/me' });
  const [[key, value]] = wx.stored;
  wx.stored.set(key, JSON.stringify({ ...JSON.parse(value), expiresAt: Date.now() - 1 }));

  const refusals = [];
  wx.on('response', ({ result }) => { if (result.statusCode === 401) refusals.push(result); });
  const response = await sandbox.open().request({ url: '/me' });
  assert.equal(response.statusCode, 200);
  assert.equal(wx.logins, 2);
  assert.deepEqual(refusals, []);
});

for (const stored of ['', 'not json', '{"token":1,"expiresAt":9e15}', '{"token":"x"}', 'null', '[]']) {
  test(`what is in the storage is not trusted: ${stored || 'nothing'}`, async () => {
    const wx = sandbox.phone('fay');
    wx.setStorageSync(`wxgate:${sandbox.url}`, stored);
    assert.equal((await sandbox.open().request({ url: '/me' })).statusCode, 200);
    assert.equal(wx.logins, 1);
  });
}

test('a full storage costs a login at the next start and nothing more', async () => {
  const wx = sandbox.phone('gil');
  wx.setStorageSync = () => { throw new Error('setStorageSync:fail exceed storage max size 10Mb'); };
  const client = sandbox.open();
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
  assert.equal(wx.logins, 1);
});

test('a login does not stand in line behind the requests that need none', async () => {
  const wx = sandbox.phone('gus');
  const late = holdBack(wx, '/first', 'once answered');
  const client = sandbox.open({ concurrency: 1, request: late.request });
  const sent = [];
  wx.on('request', ({ url }) => sent.push(new URL(url).pathname));
  const open = ['/first', '/second'].map((url) => client.request({ url, anonymous: true }));
  await late.held;

  const { newCode } = wx;
  const hasCode = new Promise((resolve) => {
    wx.newCode = () => newCode().finally(() => setImmediate(resolve));
  });
  const own = client.request({ url: '/own' });
  await hasCode;
  late.release();
  await Promise.all([...open, own]);
  assert.deepEqual(sent, ['/first', '/login', '/second', '/own']);
});

test('a late refusal does not clear the session that another request brought', async () => {
  const wx = sandbox.phone('hal');
  const late = holdBack(wx, '/late', 'once answered');
  const client = sandbox.open({ request: late.request });
  await client.request({ url: '/warm-up' });
  await sandbox.revokeBehind(wx);

  const slow = client.request({ url: '/late' });
  await late.held;
  assert.equal((await client.request({ url: '/early' })).statusCode, 200);
  const newer = storedToken(wx);
  late.release();

  assert.equal((await slow).statusCode, 200);
  assert.equal(storedToken(wx), newer);
  assert.equal(wx.logins, 2);
});

test('headers that are lost on the way end in 401 and not in a loop of logins', async () => {
  const wx = sandbox.phone('ida');
  const client = sandbox.open({
    request: (params) => wx.request({ ...params, header: omit(params.header, ['3rd_session', 'Authorization']) }),
  });
  const first = await client.request({ url: '/me' });
  assert.equal(first.statusCode, 401);
  assert.equal(first.data.error, 'missing_session');
  const responses = await Promise.all(numbers(20).map(() => client.request({ url: '/me' })));
  assert.deepEqual(new Set(responses.map((response) => response.statusCode)), new Set([401]));
  assert.equal(wx.logins, 2);
});

test('while logins pause, a newer session is used all the same', async () => {
  const wx = sandbox.phone('ivy');
  const late = holdBack(wx, '/late', 'before sending');
  let lost = true;
  const client = sandbox.open({
    request: (params) => late.request(lost ? { ...params, header: omit(params.header, ['3rd_session', 'Authorization']) } : params),
  });
  assert.equal((await client.request({ url: '/me' })).statusCode, 401);
  lost = false;

  const slow = client.request({ url: '/late' });
  await late.held;
  await sandbox.revokeBehind(wx);
  await client.login({ force: true });
  late.release();
  assert.equal((await slow).statusCode, 200);
  assert.equal(wx.logins, 3);
});

test('logout ends the session at the gateway and on the phone', async () => {
  const wx = sandbox.phone('jim');
  const client = sandbox.open();
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
  const wx = sandbox.phone('kim');
  const client = sandbox.open();
  await client.login();
  await sandbox.revokeBehind(wx);
  await client.logout();
  assert.equal(wx.logins, 1);
});

test('logout without a session sends nothing', async () => {
  const wx = sandbox.phone('leo');
  let requests = 0;
  wx.on('request', () => { requests += 1; });
  await sandbox.open().logout();
  assert.equal(requests, 0);
});

test('logout forgets the session even if the gateway is out of reach', async () => {
  const wx = sandbox.phone('mia');
  await sandbox.open().login();
  const client = createClient({ baseURL: `http://127.0.0.1:${await freePort()}`, storageKey: `wxgate:${sandbox.url}` });
  await assert.rejects(client.logout(), { name: 'WxgateError', code: 'network', errno: 600001 });
  assert.equal(wx.stored.size, 0);
});

test('logout waits for a login under way and ends its session too', async () => {
  const wx = sandbox.phone('ned');
  const client = sandbox.open();
  const loggedIn = client.login();
  await client.logout();
  await loggedIn;
  assert.equal(wx.stored.size, 0);
});

test('a request under way at logout does not log in again', async () => {
  const wx = sandbox.phone('ora');
  const late = holdBack(wx, '/late', 'before sending');
  const client = sandbox.open({ request: late.request });
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
  const wx = sandbox.phone('pam');
  const client = sandbox.open();
  await Promise.all([client.login(), client.login()]);
  const first = storedToken(wx);
  await client.login();
  assert.equal(storedToken(wx), first);
  await client.login({ force: true });
  assert.notEqual(storedToken(wx), first);
  assert.equal(wx.logins, 2);
});

test('wx.login that fails is reported and tried again by the next request', async () => {
  const wx = sandbox.phone('quy');
  const { newCode } = wx;
  wx.newCode = () => Promise.reject(new Error('offline'));
  const client = sandbox.open();
  await assert.rejects(client.request({ url: '/me' }), { code: 'wx_login_failed', errMsg: 'login:fail system error' });
  wx.newCode = newCode;
  assert.equal((await client.request({ url: '/me' })).statusCode, 200);
});

test('wx.login that never calls back ends', async () => {
  const wx = sandbox.phone('rex');
  const { newCode } = wx;
  wx.newCode = () => new Promise(() => {});
  const client = sandbox.open({ timeout: 10 });
  await assert.rejects(client.request({ url: '/me' }), { code: 'wx_login_failed', errMsg: 'login:fail timeout' });
  wx.newCode = newCode;
  assert.equal((await sandbox.open().request({ url: '/me' })).statusCode, 200);
});

// holdBack delays the first request to a path until it is released: before it is sent, or once it has
// been answered.
function holdBack(wx, path, where) {
  let release;
  let reached;
  const released = new Promise((resolve) => { release = resolve; });
  const held = new Promise((resolve) => { reached = resolve; });
  let first = true;
  const request = (params) => {
    if (!first || !params.url.endsWith(path)) return wx.request(params);
    first = false;
    if (where === 'before sending') {
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

function omit(object, names) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !names.includes(key)));
}
