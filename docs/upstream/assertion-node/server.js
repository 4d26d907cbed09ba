// An upstream of wxgate that verifies the signed identity with jose.
import http from 'node:http';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const keys = createRemoteJWKSet(new URL(process.env.JWKS_URL));
const expected = { issuer: 'wxgate', audience: process.env.AUDIENCE, algorithms: ['ES256'], clockTolerance: 5 };

http.createServer(async (req, res) => {
  res.setHeader('Content-Type', 'application/json');
  try {
    const { payload } = await jwtVerify(req.headers['x-wxgate-assertion'] ?? '', keys, expected);
    res.end(JSON.stringify({ openid: payload.sub }));
  } catch {
    res.writeHead(401).end(JSON.stringify({ error: 'no_assertion' }));
  }
}).listen(Number(process.env.PORT || 3000), '127.0.0.1');
