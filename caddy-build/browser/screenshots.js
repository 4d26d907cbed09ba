// Takes the pictures of the demo in docs/images: WXGATE_BINARY=.build/wxgate node caddy-build/browser/screenshots.js
import { fileURLToPath } from 'node:url';
import { startBrowser, startDemo } from './demo.js';

const images = fileURLToPath(new URL('../../docs/images/', import.meta.url));
const demo = await startDemo();
const browser = await startBrowser();
for (const lang of ['zh-CN', 'en']) {
  for (const colorScheme of ['light', 'dark']) {
    for (const [device, viewport] of [['desktop', { width: 1100, height: 1000 }], ['phone', { width: 390, height: 844 }]]) {
      const page = await browser.newPage({ viewport, colorScheme, deviceScaleFactor: device === 'phone' ? 2 : 1 });
      await page.goto(`${demo.url}?lang=${lang}`);
      for (const step of ['code', 'login', 'call']) {
        await page.click('#' + step);
        await page.waitForSelector(`#${step}-out p`);
      }
      await page.evaluate(() => scrollTo(0, 0));
      await page.screenshot({ path: `${images}demo-${lang}-${colorScheme}-${device}.png`, animations: 'disabled' });
      await page.close();
    }
  }
}
await browser.close();
await demo.stop();
