// A sandbox gateway for a test file, and the phones of its users.
'use strict';
const { after, afterEach, before } = require('node:test');
const { createClient } = require('../wxgate.js');
const { startSandbox } = require('./sandbox.js');
const { FakeWx } = require('./wx.js');

// useSandbox starts the gateway before the file's tests and stops it after them.
function useSandbox() {
  let sandbox;
  let phones = [];

  before(async () => { sandbox = await startSandbox(); });
  after(() => sandbox.stop());
  afterEach(() => {
    phones.forEach((wx) => wx.close());
    phones = [];
    delete globalThis.wx;
  });

  return {
    get url() { return sandbox.url; },
    exchanges: () => sandbox.exchanges(),

    // phone makes the wx of one user's phone the global one, as in a mini program.
    phone(user) {
      const wx = new FakeWx({ appid: 'wx0123456789abcdef', newCode: () => sandbox.newCode(user) });
      phones.push(wx);
      globalThis.wx = wx;
      return wx;
    },

    open: (options) => createClient({ baseURL: sandbox.url, ...options }),

    // revokeBehind ends the phone's session without the client's knowledge.
    revokeBehind: (wx) => sandbox.revoke(storedToken(wx)),
  };
}

// storedToken is the token that the client keeps.
function storedToken(wx) {
  const [value] = wx.stored.values();
  return JSON.parse(value).token;
}

// sentHeader returns every value of a header that the echoing upstream received, in any spelling.
function sentHeader(echo, name) {
  return Object.keys(echo.headers)
    .filter((key) => key.toLowerCase() === name.toLowerCase())
    .flatMap((key) => echo.headers[key]);
}

function numbers(count) {
  return Array.from({ length: count }, (_, n) => n);
}

module.exports = { numbers, sentHeader, storedToken, useSandbox };
