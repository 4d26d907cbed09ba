// The package as programs load it.
'use strict';
const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const { execFileSync } = require('node:child_process');
const path = require('node:path');
const manifest = require('../package.json');

const { asModule } = require('./esm.js');

const root = path.resolve(__dirname, '..');
const { createClient } = require('../wxgate.js');

test('it loads by require, by the name that the developer tools resolve, and by import', async () => {
  assert.equal(require('../index.js').createClient, createClient);
  const imported = await import('../wxgate.js');
  assert.equal(imported.createClient, createClient);
  assert.equal(imported.default.createClient, createClient);
});

test('the ES module is the same client', async () => {
  assert.equal(fs.readFileSync(path.join(root, 'wxgate.mjs'), 'utf8'), asModule(), 'npm run build');
  const imported = await import('../wxgate.mjs');
  assert.deepEqual(Object.keys(imported), ['createClient']);
  assert.throws(() => imported.createClient({}), TypeError);
});

test('what is published is all that the package names, and its licence', () => {
  const [packed] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json'], { cwd: root, encoding: 'utf8' }));
  const files = packed.files.map((file) => file.path);
  const conditions = Object.values(manifest.exports['.']).flatMap((condition) => Object.values(condition));
  for (const name of ['LICENSE', 'README.md', 'package.json', manifest.main, manifest.module, manifest.types, ...conditions, ...manifest.files]) {
    assert.ok(files.includes(path.posix.normalize(name)), name);
  }
  assert.ok(!files.some((file) => file.startsWith('test/')));
});

test('the client needs nothing but the platform', () => {
  const source = fs.readFileSync(path.join(root, 'wxgate.js'), 'utf8');
  assert.doesNotMatch(source, /require\(|^import /m);
  assert.equal(manifest.dependencies, undefined);
});
