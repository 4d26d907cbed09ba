// A phone number by its code, against the real gateway.
'use strict';
const { after, before, test } = require('node:test');
const assert = require('node:assert/strict');
const { createClient } = require('../wxgate.js');
const { APPID, startGateway, startUpstream, startWeChat } = require('./gateway.js');
const { FakeWx } = require('./wx.js');

let wechat;
let upstream;
let gateway;
let wx;

before(async () => {
  wechat = await startWeChat();
  upstream = await startUpstream({});
  gateway = await startGateway({ wechat, upstream, sites: ['open_data /user/phone {\n phone\n }'] });
  wx = new FakeWx({ appid: APPID, newCode: wechat.newCode });
  globalThis.wx = wx;
});

after(async () => {
  wx.close();
  delete globalThis.wx;
  await gateway.stop();
  await upstream.stop();
  await wechat.stop();
});

test('the application receives the verified number for the code of the button', async () => {
  const client = createClient({ baseURL: gateway.url });
  const response = await client.phone('phone-1', '/user/phone', { order: 7 });

  assert.equal(response.statusCode, 200);
  const received = upstream.seen.pop();
  assert.equal(received.headers['x-wx-open-data'], 'verified');
  const body = JSON.parse(received.body);
  assert.equal(body.order, 7);
  assert.equal(body.openData.phoneNumber, '13800000000');
  assert.equal(body.phoneCode, undefined);
  assert.deepEqual(wechat.phoneCodes, ['phone-1']);
});

test('a code that WeChat does not take is the caller\'s answer', async () => {
  const client = createClient({ baseURL: gateway.url });
  const response = await client.phone('made-up', '/user/phone');

  assert.equal(response.statusCode, 409);
  assert.equal(response.data.error, 'open_data_rejected');
  assert.equal(upstream.seen.length, 0);
});
