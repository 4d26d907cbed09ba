// Answers that no gateway gives: a network full of surprises must end every call, in a bounded number of
// requests, and never become a session.
'use strict';
const { test } = require('node:test');
const assert = require('node:assert/strict');
const { createClient } = require('../wxgate.js');

const CALLS = 3000;
const SEED = 20261122;

const names = ['missing_session', 'invalid_session', 'code_used', 'invalid_code', 'store_unavailable', 'rate_limited', 'odd', ''];
const statuses = [0, 200, 204, 302, 400, 401, 401, 401, 403, 409, 429, 500, 503, 503, 'many', undefined, NaN];
const leaves = [undefined, null, true, 0, -1, 1e400, NaN, '', 'text', '{"error":', '{"__proto__":{"error":"x"}}', [], {}, Symbol.iterator];

test(`${CALLS} calls on a network full of surprises (seed ${SEED})`, async () => {
  const random = generator(SEED);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const bytes = (text) => new TextEncoder().encode(text).buffer;
  const body = () => {
    const value = pick([
      () => ({ error: pick(names), message: 'no' }),
      () => ({ error: pick(names), message: pick(leaves) }),
      () => ({ error: pick(leaves), message: pick(leaves) }),
      () => ({ '3rd_session': pick([...leaves, 'token']), expires_in: pick([...leaves, 60]) }),
      () => pick(leaves),
    ])();
    if (random() < 0.5) return value;
    const text = JSON.stringify(value) || '';
    return pick([text, text.slice(0, 9), bytes(text), bytes(text.repeat(900)), '\u0000', `\ufeff${text}`]);
  };
  const answer = () => ({
    statusCode: pick(statuses), data: body(), header: pick([undefined, null, {}, { 'retry-after': pick(leaves.slice(0, -1)) }]),
    ...(random() < 0.1 ? { tempFilePath: pick(leaves) } : {}),
  });

  for (let call = 0; call < CALLS; call += 1) {
    let requests = 0;
    let logins = 0;
    const stored = [];
    const client = createClient({
      baseURL: 'https://api.example.com',
      maxRetries: 0,
      request(params) {
        requests += 1;
        const result = answer();
        if (random() < 0.05) throw new Error('thrown');
        queueMicrotask(() => (random() < 0.1 ? params.fail(pick([undefined, {}, { errMsg: 'request:fail' }, 7])) : params.success(result)));
        return pick([() => undefined, () => null, () => ({ abort() {} }), () => Promise.reject(new Error('late'))])();
      },
      login(params) {
        logins += 1;
        queueMicrotask(() => (random() < 0.1 ? params.fail() : params.success({ code: 'code' })));
      },
      getFileSystemManager: () => ({
        readFile: ({ success, fail }) => queueMicrotask(() => (random() < 0.3 ? fail() : success({ data: body() }))),
      }),
      storage: { get: () => pick([body(), '{"token":"old","expiresAt":9e15}']), set: (key, value) => stored.push(JSON.parse(value)), remove() {} },
    });

    const response = await client.request({ url: '/' }).catch((error) => error);
    if (response instanceof Error) assertExpected(response);
    await client.logout().catch(assertExpected);
    // Two logins with a fresh code each at most, two sends of the request, one logout.
    assert.ok(logins <= 4 && requests <= 7, `${logins} logins, ${requests} requests`);
    for (const { token, expiresAt } of stored) {
      assert.equal(typeof token === 'string' && token !== '' && expiresAt > 0, true, `stored ${token} until ${expiresAt}`);
    }
  }
});

function assertExpected(error) {
  assert.ok(error.name === 'WxgateError' || error.message === 'thrown', error.stack);
}

// generator is mulberry32: small numbers that repeat from the seed.
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
