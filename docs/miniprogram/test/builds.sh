#!/usr/bin/env bash
# Builds real projects with the copied file and with the package: Vite, uni-app (Vue 3, for WeChat and
# H5) and the developer tools' "build npm" (miniprogram-ci). It downloads some hundred megabytes from
# npm, so `npm test` does not run it: npm run builds
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
uni=3.0.0-alpha-5020620260914001

step() { printf '\n== %s\n' "$*"; }
install() { npm install --no-audit --no-fund --loglevel=error --ignore-scripts "$@"; }

mkdir -p "$work"
tarball=$work/$(cd "$here" && npm pack --silent --pack-destination "$work" | tail -1)

# page writes a module that logs in and asks for something.
page() {
	cat <<-JS
		import { createClient } from '$1';
		const client = createClient({ baseURL: 'https://api.example.com' });
		export const load = () => client.request({ url: '/orders' });
	JS
}

# built fails unless the client is in what was built: its storage key and nothing of CommonJS.
built() {
	grep -rqs "wxgate:" "$1" || { echo "the client is not in $1" >&2; exit 1; }
	if grep -rqsE "module\.exports *= *\{ *createClient" "$1"; then echo "CommonJS is left in $1" >&2; exit 1; fi
}

step "Vite"
mkdir -p "$work/vite" && cd "$work/vite"
echo '{"name":"site","private":true,"type":"module"}' >package.json
install vite@8.3.8 "$tarball"
for from in ./wxgate.mjs @wxgate/miniprogram; do
	cp "$here"/wxgate.mjs .
	page "$from" >client.js
	echo "import { load } from './client.js'; load().then(console.log);" >main.js
	echo '<!doctype html><script type="module" src="./main.js"></script>' >index.html
	npx vite build --logLevel warn
	built dist
done

step "uni-app, Vue 3"
mkdir -p "$work/uni/src/pages/index" && cd "$work/uni"
cat >package.json <<-JSON
	{
	  "name": "uni", "private": true,
	  "dependencies": {
	    "@dcloudio/uni-app": "$uni", "@dcloudio/uni-components": "$uni", "@dcloudio/uni-h5": "$uni", "@dcloudio/uni-mp-weixin": "$uni", "vue": "3.4.21"
	  },
	  "devDependencies": { "@dcloudio/uni-cli-shared": "$uni", "@dcloudio/vite-plugin-uni": "$uni", "vite": "5.2.8" }
	}
JSON
install
install --no-save "$tarball"
cat >vite.config.js <<-'JS'
	const uni = require('@dcloudio/vite-plugin-uni');
	module.exports = { plugins: [uni.default()] };
JS
cat >index.html <<-'HTML'
	<!doctype html><div id="app"></div><script type="module" src="/src/main.js"></script>
HTML
cat >src/main.js <<-'JS'
	import { createSSRApp } from 'vue';
	import App from './App.vue';
	export function createApp() { return { app: createSSRApp(App) }; }
JS
echo '<script>export default {};</script>' >src/App.vue
echo '{"name":"shop","appid":"","mp-weixin":{"appid":"wx0123456789abcdef"},"vueVersion":"3"}' >src/manifest.json
echo '{"pages":[{"path":"pages/index/index"}]}' >src/pages.json
cat >src/pages/index/index.vue <<-'VUE'
	<template><view>{{ orders }}</view></template>
	<script setup>
	import { ref } from 'vue';
	import { load } from '../../client.js';
	const orders = ref('');
	load().then(({ data }) => { orders.value = JSON.stringify(data); });
	</script>
VUE
for from in ./wxgate.mjs @wxgate/miniprogram; do
	cp "$here"/wxgate.mjs src/
	page "$from" >src/client.js
	npx uni build -p mp-weixin
	built dist/build/mp-weixin
	npx uni build
	built dist/build/h5
done

step "WeChat's developer tools: build npm"
mkdir -p "$work/native/pages/index" && cd "$work/native"
echo '{"name":"native","private":true}' >package.json
install "$tarball"
echo '{"appid":"wx0123456789abcdef","projectname":"native","setting":{"es6":true}}' >project.config.json
echo '{"pages":["pages/index/index"]}' >app.json
touch app.js pages/index/index.wxml
cp "$here"/wxgate.js .
echo "const { createClient } = require('@wxgate/miniprogram'); Page({ client: createClient({ baseURL: 'https://a.example' }) });" >pages/index/index.js
mkdir -p "$work/ci" && cd "$work/ci"
echo '{"name":"ci","private":true}' >package.json
install miniprogram-ci@2.1.42
echo key >key
cat >pack.js <<-JS
	const ci = require('miniprogram-ci');
	const project = new ci.Project({ appid: 'wx0123456789abcdef', type: 'miniProgram', projectPath: '$work/native', privateKeyPath: '$work/ci/key', ignores: ['node_modules/**/*'] });
	ci.packNpm(project).then((warnings) => { if (warnings.length) throw new Error(JSON.stringify(warnings)); });
JS
node pack.js
packed=$work/native/miniprogram_npm/@wxgate/miniprogram
test -f "$packed/index.js" && test -f "$packed/wxgate.js"
node -e "globalThis.wx = {}; require('$packed').createClient({ baseURL: 'https://a.example' })"

step "all built"
