// The package as programs load it.
'use strict';
const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const manifest = require('../package.json');

const root = path.resolve(__dirname, '..');
const { createClient } = require('../wxgate.js');

test('it loads by require, by the name that the developer tools resolve, and by import', async () => {
  assert.equal(require('../index.js').createClient, createClient);
  const imported = await import('../wxgate.js');
  assert.equal(imported.createClient, createClient);
  assert.equal(imported.default.createClient, createClient);
});

test('what the package names is there', () => {
  for (const name of [manifest.main, manifest.types, manifest.miniprogram, ...manifest.files]) {
    assert.ok(fs.existsSync(path.join(root, name)), name);
  }
});

test('the client needs nothing but the platform', () => {
  const source = fs.readFileSync(path.join(root, 'wxgate.js'), 'utf8');
  assert.doesNotMatch(source, /require\(|^import /m);
  assert.equal(manifest.dependencies, undefined);
});
