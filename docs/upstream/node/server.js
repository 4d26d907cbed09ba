// An upstream of wxgate in plain Node.js.
const http = require('node:http');

http.createServer((req, res) => {
  const openid = req.headers['x-openid']; // Node lower-cases header names.
  res.setHeader('Content-Type', 'application/json');
  if (!openid) {
    res.writeHead(401).end(JSON.stringify({ error: 'no_openid' }));
    return;
  }
  res.end(JSON.stringify({ openid }));
}).listen(Number(process.env.PORT || 3000), '127.0.0.1'); // Only the gateway on this machine reaches it.
