// An upstream of wxgate in Express.
const express = require('express');

const app = express();
app.use((req, res, next) => {
  req.openid = req.get('X-OpenID');
  if (!req.openid) return res.status(401).json({ error: 'no_openid' });
  next();
});
app.use((req, res) => res.json({ openid: req.openid }));
app.listen(Number(process.env.PORT || 3000), '127.0.0.1'); // Only the gateway on this machine reaches it.
