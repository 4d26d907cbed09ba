// wxgate.mjs is wxgate.js for tools that take ES modules only, such as Vite. `npm run build` writes it.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const root = path.resolve(__dirname, '..');

function asModule() {
  return fs.readFileSync(path.join(root, 'wxgate.js'), 'utf8')
    .replace("'use strict';\n\n", '')
    .replace('module.exports = { createClient };', 'export { createClient };');
}

if (require.main === module) fs.writeFileSync(path.join(root, 'wxgate.mjs'), asModule());

module.exports = { asModule };
