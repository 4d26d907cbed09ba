// An application that uses an unmodified node-easywechat and holds no AppSecret: a key of wxgate_api takes its place.
const { MiniApp } = require('node-easywechat');

async function main() {
  for (const stable of [false, true]) {
    const app = new MiniApp({
      app_id: process.env.APPID,
      secret: process.env.WXGATE_API_KEY,
      use_stable_access_token: stable,
      http: { baseURL: process.env.WXGATE_API },
    });
    const client = app.getClient();
    const sent = await client.post('cgi-bin/message/subscribe/send', {
      json: { touser: process.env.OPENID, template_id: 'template-1', data: { thing1: { value: 'hello' } } },
    });
    if (sent.toObject().errcode !== 0) throw new Error(JSON.stringify(sent.toObject()));
    const code = await client.post('wxa/getwxacodeunlimit', { json: { scene: 'a=1' }, responseType: 'arraybuffer' });
    console.log('image', code.getContent().length);
  }
}

main().catch((err) => {
  console.error(err.message);
  process.exit(1);
});
