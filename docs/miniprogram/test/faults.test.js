// What the client does when WeChat, the gateway's limits or its session store stand in the way, what it
// leaves alone because the application behind the gateway said it, and sites that differ from the demo's.
'use strict';
const { once } = require('node:events');
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

let wechat;
let upstream;
let gateway;
const other = { tokenHeader: 'X-Session', loginPath: '/wx/login', logoutPath: '/wx/logout' };

before(async () => {
  wechat = await startWeChat();
  upstream = await startUpstream(answers);
  gateway = await startGateway({
    wechat,
    upstream,
    sites: [
      '',
      'token_from bearer',
      `token_from ${other.tokenHeader}\n        login ${other.loginPath}\n        logout ${other.logoutPath}`,
    ],
  });
});
after(async () => {
  await gateway.stop();
  await upstream.stop();
  await wechat.stop();
});

// user makes a phone and a client on it, of the gateway unless told otherwise.
function user(t, { url = gateway.url, ...options } = {}) {
  const wx = new FakeWx({ appid: APPID, newCode: wechat.newCode });
  t.after(() => wx.close());
  const client = createClient({
    baseURL: url,
    request: (params) => wx.request(params),
    login: (params) => wx.login(params),
    uploadFile: (params) => wx.uploadFile(params),
    downloadFile: (params) => wx.downloadFile(params),
    connectSocket: (params) => wx.connectSocket(params),
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

test('a blocked user gets the error and is not tried again', async (t) => {
  const { wx, client } = user(t);
  wechat.script = [{ errcode: 40226, errmsg: 'blocked' }];
  const results = await Promise.allSettled([client.request({ url: '/1' }), client.request({ url: '/2' })]);
  for (const { reason } of results) {
    const { code, statusCode, errcode, retryAfter } = reason;
    assert.deepEqual({ code, statusCode, errcode, retryAfter },
      { code: 'user_blocked', statusCode: 403, errcode: 40226, retryAfter: undefined });
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

test('a limited login waits as long as the gateway says, and no longer', async (t) => {
  const { limited, seconds } = await exhaust(t);
  const { wx, client } = user(t, { url: limited.url, maxRetryAfter: 3600 });
  const refusals = countRefusals(wx);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const failed = assert.rejects(client.request({ url: '/' }), { code: 'rate_limited', statusCode: 429 });
  for (const attempt of [1, 2]) {
    await refusals.reach(attempt);
    t.mock.timers.tick((seconds - 60) * 1000);
    await settled();
    assert.equal(wx.logins, attempt, 'the client came back too early');
    t.mock.timers.tick(61 * 1000);
  }
  await failed;
  assert.equal(wx.logins, 3);
});

test('a wait that is too long is reported, and the gateway is left in peace until it is over', async (t) => {
  const { limited, seconds } = await exhaust(t);
  const { wx, client } = user(t, { url: limited.url });
  const refusals = countRefusals(wx);
  const error = await client.request({ url: '/' }).then(assert.fail, (reason) => reason);
  assert.equal(error.code, 'rate_limited');
  assert.ok(error.retryAfter > seconds - 60 && error.retryAfter <= 3600, `${error.retryAfter} seconds`);
  await assert.rejects(client.request({ url: '/' }), { code: 'rate_limited', statusCode: 429 });
  assert.equal(refusals.count(), 1);
  assert.equal(wx.logins, 1);

  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + error.retryAfter * 1000 });
  await assert.rejects(client.request({ url: '/' }), { code: 'rate_limited' });
  assert.equal(refusals.count(), 2);
});

// exhaust starts a gateway that takes one login an hour, and uses it up. The gateway then asks for
// about `seconds` of patience; what a busy machine takes off is far less than a minute.
async function exhaust(t) {
  const limited = await startGateway({ wechat, upstream, app: 'login_rate 1 1h' });
  t.after(limited.stop);
  await user(t, { url: limited.url }).client.login();
  return { limited, seconds: 3600 };
}

// countRefusals follows the 429 answers that a phone gets.
function countRefusals(wx) {
  let count = 0;
  wx.on('response', ({ result }) => {
    if (result.statusCode !== 429) return;
    count += 1;
    wx.emit('refusal');
  });
  return {
    count: () => count,
    reach: async (wanted) => {
      while (count < wanted) await once(wx, 'refusal');
      await settled();
    },
  };
}

// settled resolves when the promises that are ready have run.
function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}

test('WeChat that is busy costs a wait, and only so many', async (t) => {
  // Its own gateway, since WeChat's trouble makes a gateway careful for a while.
  const troubled = await startGateway({ wechat, upstream });
  t.after(troubled.stop);
  t.after(() => { wechat.script = []; });

  const patient = user(t, { url: troubled.url });
  // The gateway tries again once by itself; the second login succeeds.
  wechat.script = Array(2).fill({ errcode: -1, errmsg: 'system error' });
  assert.equal((await patient.client.request({ url: '/' })).statusCode, 200);
  assert.equal(patient.wx.logins, 2);
  assert.deepEqual(wechat.script, []);

  const hasty = user(t, { url: troubled.url, maxRetries: 0 });
  wechat.script = Array(20).fill({ errcode: -1, errmsg: 'system error' });
  await assert.rejects(hasty.client.login(), { code: 'wechat_busy', statusCode: 503 });
  assert.equal(hasty.wx.logins, 1);
});

test('a session store that is away for a moment costs time, not the session, and nothing is sent twice', async (t) => {
  const redis = await startRedis();
  t.after(redis.stop);
  const store = `redis ${redis.address} {
            dial_timeout 10s
            timeout 2s
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
  const logins = wx.logins;
  const before = upstream.seen.length;
  const response = await moved.request({ url: '/pay', method: 'POST', data: { amount: 1 } });
  assert.equal(response.statusCode, 200);
  assert.equal(statuses[0], 503);
  assert.equal(upstream.seen.length - before, 1);
  assert.equal(wx.logins, logins);
});

test('a socket opens in the name of the user', async (t) => {
  const { wx, client } = user(t);
  const socket = await client.connectSocket({ url: `${gateway.url.replace('http', 'ws')}/chat` });
  await once(socket, 'open');
  socket.close();
  const { path, headers } = upstream.seen.at(-1);
  assert.equal(path, '/chat');
  assert.equal(headers['x-openid'], wechat.codes.at(-1));
  assert.equal(headers['3rd_session'], undefined);
  assert.equal(wx.logins, 1);
});

for (const [n, options] of [[1, { tokenHeader: 'bearer' }], [2, { ...other, appid: APPID }]]) {
  test(`the token travels as the site wants it: ${options.tokenHeader}`, async (t) => {
    const { wx, client } = user(t, { url: gateway.urls[n], ...options });
    assert.equal((await client.request({ url: '/', header: { authorization: 'mine' } })).statusCode, 200);
    await client.logout();
    assert.equal((await client.request({ url: '/' })).statusCode, 200);
    assert.equal(wx.logins, 2);
  });
}
