// The gateway with its sandbox WeChat and its echoing upstream: `wxgate demo`.
'use strict';
const { answersOK, binary, freePort, start } = require('./binary.js');

async function startSandbox() {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const { stop } = await start(binary(), ['wxgate', 'demo', '--listen', `127.0.0.1:${port}`],
    { ready: () => answersOK(`${url}/sandbox/stats`) });
  const post = (path, header) => fetch(url + path, { method: 'POST', headers: header });
  return {
    url,
    stop,
    // newCode plays the part of WeChat's app: a code for the user's next login.
    newCode: async (user) => (await (await post(`/sandbox/code?user=${user}`)).json()).code,
    // exchanges counts the calls of jscode2session so far.
    exchanges: async () => (await (await fetch(`${url}/sandbox/stats`)).json()).calls,
    // revoke ends a session without the client's knowledge.
    revoke: async (token) => {
      const { status } = await post('/logout', { '3rd_session': token });
      if (status !== 204) throw new Error(`revoking a session: status ${status}`);
    },
  };
}

module.exports = { startSandbox };
