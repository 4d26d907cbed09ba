// What the client does when WeChat, the gateway's limits or its session store stand in the way, and what
// it leaves alone because the application behind the gateway said it.
'use strict';
const { after, before, test } = require('node:test');
const assert = require('node:assert/strict');
const { createClient } = require('../wxgate.js');
const { APPID, startGateway, startRedis, startUpstream, startWeChat } = require('./gateway.js');
const { FakeWx } = require('./wx.js');

const sessionError = { error: 'invalid_session', message: 'the session is not valid' };
const answers = {
  '/own-401': { status: 401, body: { error: 'wrong_password', message: 'no' } },
  '/own-401-text': { status: 401, body: 'invalid_session' },
  '/own-403': { status: 403, body: sessionError },
  '/own-429': { status: 429, header: { 'Retry-After': '1' }, body: { error: 'rate_limited', message: 'no' } },
  '/own-503': { status: 503, header: { 'Retry-After': '1' }, body: { error: 'maintenance', message: 'no' } },
  '/own-502': { status: 502, body: 'bad gateway' },
  // An application that talks exactly like the gateway gets one replay, and no more.
  '/mimic': { status: 401, body: sessionError },
};

const stops = [];
let wechat;
let upstream;
let gateway;

before(async () => {
  wechat = await startWeChat();
  upstream = await startUpstream(answers);
  gateway = await startGateway({ wechat, upstream });
  stops.push(gateway.stop, upstream.stop, wechat.stop);
});
after(async () => {
  for (const stop of stops) await stop();
});

// user makes a phone and a client on it; each has a gateway address of its own choice.
function user(t, { url = gateway.url, ...options } = {}) {
  const wx = new FakeWx({ appid: APPID, newCode: wechat.newCode });
  t.after(() => wx.close());
  const client = createClient({
    baseURL: url,
    request: (params) => wx.request(params),
    login: (params) => wx.login(params),
    uploadFile: (params) => wx.uploadFile(params),
    downloadFile: (params) => wx.downloadFile(params),
    getFileSystemManager: () => wx.getFileSystemManager(),
    storage: {
      get: (key) => wx.getStorageSync(key),
      set: (key, value) => wx.setStorageSync(key, value),
      remove: (key) => wx.removeStorageSync(key),
    },
    ...options,
  });
  return { wx, client };
}

for (const path of Object.keys(answers).filter((name) => name.startsWith('/own-'))) {
  for (const api of ['request', 'uploadFile', 'downloadFile']) {
    test(`the application's own answer is passed through: ${path.slice(1)}, ${api}`, async (t) => {
      const { wx, client } = user(t);
      wx.files.set('f', 'content');
      const before = upstream.seen.length;
      const response = await client[api]({ url: path, name: 'f', filePath: api === 'uploadFile' ? 'f' : undefined });
      assert.equal(response.statusCode, answers[path].status);
      assert.equal(upstream.seen.length - before, 1);
      assert.equal(wx.logins, 1);
    });
  }
}

test('an application that mimics the gateway is asked twice at most and does not cause logins in a row', async (t) => {
  const { wx, client } = user(t);
  const before = upstream.seen.length;
  assert.equal((await client.request({ url: '/mimic' })).statusCode, 401);
  assert.equal(upstream.seen.length - before, 2);
  assert.equal((await client.request({ url: '/mimic' })).statusCode, 401);
  assert.equal(upstream.seen.length - before, 3);
  assert.equal(wx.logins, 2);
});

for (const [name, errcode] of [['code_used', 40163], ['invalid_code', 40029]]) {
  test(`${name}: a fresh code is tried once`, async (t) => {
    const { wx, client } = user(t);
    wechat.script = [{ errcode, errmsg: 'no' }];
    assert.equal((await client.request({ url: '/' })).statusCode, 200);
    assert.equal(wx.logins, 2);
    assert.notEqual(wechat.codes.at(-1), wechat.codes.at(-2));
  });

  test(`${name}: and not twice`, async (t) => {
    const { wx, client } = user(t);
    wechat.script = [{ errcode, errmsg: 'no' }, { errcode, errmsg: 'no' }];
    await assert.rejects(client.request({ url: '/' }), { name: 'WxgateError', code: name, statusCode: 401, errcode });
    assert.equal(wx.logins, 2);
    assert.deepEqual(wechat.script, []);
  });
}

test('a blocked user is told so and not tried again', async (t) => {
  const { wx, client } = user(t);
  wechat.script = [{ errcode: 40226, errmsg: 'blocked' }];
  const waiting = [client.request({ url: '/1' }), client.request({ url: '/2' })];
  for (const request of waiting) {
    await assert.rejects(request, { code: 'user_blocked', statusCode: 403, errcode: 40226, retryAfter: undefined });
  }
  assert.equal(wx.logins, 1);
});

test('no error holds the code or the token', async (t) => {
  const { client } = user(t);
  wechat.script = [{ errcode: 40226, errmsg: 'blocked' }];
  const error = await client.login().then(assert.fail, (reason) => reason);
  const text = JSON.stringify(error) + error.stack;
  assert.ok(!text.includes(wechat.codes.at(-1)), text);
});

test('a login over login_rate waits as long as the gateway says and then goes through', async (t) => {
  const limited = await startGateway({ wechat, upstream, app: 'login_rate 1 2s' });
  t.after(limited.stop);
  await user(t, { url: limited.url }).client.login();

  const { wx, client } = user(t, { url: limited.url });
  const refusals = [];
  wx.on('response', ({ result }) => { if (result.statusCode === 429) refusals.push(Date.now()); });
  const response = await client.request({ url: '/' });
  assert.equal(response.statusCode, 200);
  assert.ok(refusals.length >= 1, 'the login was not limited');
  assert.ok(wx.logins <= 3, `${wx.logins} logins`);
});

test('a wait that is too long is reported, and the gateway is left in peace until it is over', async (t) => {
  const limited = await startGateway({ wechat, upstream, app: 'login_rate 1 1h' });
  t.after(limited.stop);
  await user(t, { url: limited.url }).client.login();

  const { wx, client } = user(t, { url: limited.url });
  const seconds = await client.request({ url: '/' }).then(assert.fail, (error) => {
    assert.equal(error.code, 'rate_limited');
    assert.equal(error.statusCode, 429);
    return error.retryAfter;
  });
  assert.ok(seconds > 3000 && seconds <= 3600, `${seconds} seconds`);

  let requests = 0;
  wx.on('request', () => { requests += 1; });
  await assert.rejects(client.request({ url: '/' }), { code: 'rate_limited', statusCode: 429 });
  assert.equal(requests, 0);
  assert.equal(wx.logins, 1);

  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + seconds * 1000 + 1 });
  await assert.rejects(client.request({ url: '/' }), { code: 'rate_limited' });
  assert.equal(requests, 1, 'the gateway was not asked after the wait');
});

test('the number of waits is bounded', async (t) => {
  const { wx, client } = user(t, { maxRetries: 1 });
  wechat.script = Array(9).fill({ errcode: 45011, errmsg: 'too often' });
  await assert.rejects(client.login(), { code: 'rate_limited', statusCode: 429, errcode: 45011 });
  assert.equal(wx.logins, 2);
  wechat.script = [];
});

test('a session store that is away for a moment costs time, not the session, and nothing is sent twice', async (t) => {
  const redis = await startRedis();
  t.after(redis.stop);
  const store = `redis ${redis.address} {
            timeout 200ms
            client_cache off
        }`;
  const app = 'encryption_key MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=';
  const first = await startGateway({ wechat, upstream, app, store });
  t.after(first.stop);
  // The second gateway has not seen the session yet, so it has to ask the store.
  const second = await startGateway({ wechat, upstream, app, store });
  t.after(second.stop);

  const { wx, client } = user(t, { url: first.url, storageKey: 'session' });
  await client.login();
  const moved = createClient({
    baseURL: second.url,
    storageKey: 'session',
    request: (params) => wx.request(params),
    login: (params) => wx.login(params),
    storage: { get: (key) => wx.getStorageSync(key), set: () => {}, remove: assert.fail },
  });

  redis.pause();
  const statuses = [];
  wx.on('response', ({ result }) => {
    statuses.push(result.statusCode);
    redis.resume();
  });
  const before = upstream.seen.length;
  const response = await moved.request({ url: '/pay', method: 'POST', data: { amount: 1 } });
  assert.equal(response.statusCode, 200);
  assert.equal(statuses[0], 503);
  assert.equal(upstream.seen.length - before, 1);
  assert.equal(wx.logins, 1);
});

for (const tokenHeader of ['bearer', 'X-Session']) {
  test(`the token travels as the site wants it: ${tokenHeader}`, async (t) => {
    const other = await startGateway({
      wechat, upstream, site: `token_from ${tokenHeader}\n        login /wx/login\n        logout /wx/logout`,
    });
    t.after(other.stop);
    const { wx, client } = user(t, {
      url: other.url, tokenHeader, loginPath: '/wx/login', logoutPath: '/wx/logout', appid: APPID,
    });
    assert.equal((await client.request({ url: '/', header: { authorization: 'mine' } })).statusCode, 200);
    await client.logout();
    assert.equal((await client.request({ url: '/' })).statusCode, 200);
    assert.equal(wx.logins, 2);
  });
}
