import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startBrowser, startDemo } from './demo.js';

let demo, browser;
before(async () => {
  demo = await startDemo();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await demo?.stop();
});

/** Opens the demo in a language; complaints holds what should not have happened. */
async function open(lang, viewport = { width: 1280, height: 900 }) {
  const page = await browser.newPage({ viewport });
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    // The browser itself reports each 401 of a step that is about one.
    if (message.type() === 'error' && !/status of 401/.test(message.text())) complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(demo.url) && !request.url().startsWith('data:')) complaints.push('request to ' + request.url());
  });
  await page.goto(demo.url + '?lang=' + lang);
  return { page, complaints };
}

const steps = ['code', 'login', 'call', 'forge', 'bare', 'reuse', 'phone', 'api', 'push', 'logout', 'revoke'];
const shown = {
  code: '"code"', login: '3rd_session', call: 'X-Openid: ', forge: 'X-Openid: ', bare: 'missing_session', reuse: 'code_used',
  phone: 'phoneNumber', api: '"errcode":0', push: 'X-Wx-Push: verified', logout: '204', revoke: '401',
};

for (const lang of ['zh-CN', 'en']) {
  test(`every button does what it says, ${lang}`, async () => {
    const { page, complaints } = await open(lang);
    for (const step of steps) {
      await page.click('#' + step);
      await page.waitForSelector(`#${step}-out p`);
      const text = await page.locator(`#${step}-out`).innerText();
      assert.equal(await page.locator(`#${step}-out`).getAttribute('class'), 'out good', `${step}: ${text}`);
      assert.ok(text.includes(shown[step]), `${step} shows ${shown[step]}: ${text}`);
      assert.ok(!/victim/.test(text), 'the forged user is nowhere');
    }
    assert.deepEqual(complaints, []);
    await page.close();
  });
}

test('all steps in a row, on a phone', async () => {
  const { page, complaints } = await open('zh-CN', { width: 375, height: 800 });
  await page.click('#all');
  await page.waitForSelector('#revoke-out p');
  assert.equal(await page.locator('.out.good').count(), steps.length);
  assert.equal(await page.locator('.out.bad').count(), 0);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 375, `the page is ${width} pixels wide`);
  assert.deepEqual(complaints, []);
  await page.close();
});

test('the language switches, and only one is shown', async () => {
  const { page, complaints } = await open('zh-CN');
  const text = () => page.locator('main').innerText();
  assert.match(await text(), /获取 code/);
  assert.doesNotMatch(await text(), /Get a code/);
  await page.click('#en');
  assert.match(await text(), /Get a code/);
  assert.doesNotMatch(await text(), /[\u4e00-\u9fff]/);
  assert.equal(await page.locator('#en').getAttribute('aria-pressed'), 'true');
  assert.deepEqual(complaints, []);
  await page.close();
});
