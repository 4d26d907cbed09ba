// A wx that behaves as WeChat documents it and does real HTTP: at most ten network tasks at a time,
// success for any status, callbacks, task objects with abort, the Referer that a program cannot change.
// https://developers.weixin.qq.com/miniprogram/dev/framework/ability/network.html
'use strict';
const http = require('node:http');
const { EventEmitter } = require('node:events');

const TASK_LIMIT = 10;

class FakeWx extends EventEmitter {
  // newCode returns a promise of a login code, as WeChat's app gets one. The instance emits `request`
  // before and `response` after each call that goes over the network.
  constructor({ appid, newCode }) {
    super();
    this.appid = appid;
    this.newCode = newCode;
    this.logins = 0;
    this.running = 0;
    this.mostRunning = 0;
    this.stored = new Map();
    this.files = new Map();
    this.agent = new http.Agent({ keepAlive: true });
  }

  login({ success, fail }) {
    this.logins += 1;
    this.newCode().then((code) => success({ code, errMsg: 'login:ok' }), () => fail({ errMsg: 'login:fail system error', errno: -1 }));
  }

  request(options) {
    const { data, header = {}, method = 'GET', dataType = 'json', responseType = 'text', enableChunked = false } = options;
    const headers = { 'content-type': 'application/json', ...header };
    const body = data === undefined || method === 'GET' ? undefined : toBody(data);
    return this.transfer('request', options, { method, headers, body, enableChunked }, ({ statusCode, headers: received, bytes }) => ({
      // A chunked answer was delivered through onChunkReceived already.
      data: enableChunked ? '' : fromBytes(bytes, dataType, responseType),
      statusCode,
      header: received,
      cookies: [],
      errMsg: 'request:ok',
    }));
  }

  uploadFile(options) {
    const boundary = 'wxboundary';
    const fields = Object.entries(options.formData || {}).map(([name, value]) =>
      `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`);
    const file = `--${boundary}\r\nContent-Disposition: form-data; name="${options.name}"; filename="f"\r\n\r\n${this.files.get(options.filePath)}\r\n`;
    const body = `${fields.join('')}${file}--${boundary}--\r\n`;
    const headers = { ...options.header, 'content-type': `multipart/form-data; boundary=${boundary}` };
    // The documented result has neither parsed data nor headers.
    return this.transfer('uploadFile', options, { method: 'POST', headers, body }, ({ statusCode, bytes }) => ({
      data: bytes.toString(), statusCode, errMsg: 'uploadFile:ok',
    }));
  }

  downloadFile(options) {
    return this.transfer('downloadFile', options, { method: 'GET', headers: options.header }, ({ statusCode, bytes }) => {
      const path = options.filePath || `wxfile://tmp_${this.files.size}`;
      this.files.set(path, bytes.toString()); // Whatever the status, the body goes to the file.
      return { [options.filePath ? 'filePath' : 'tempFilePath']: path, statusCode, errMsg: 'downloadFile:ok' };
    });
  }

  // transfer runs one network task. The platform refuses more than ten.
  transfer(api, options, { method, headers, body, enableChunked = false }, toResult) {
    const task = new FakeTask();
    const { success = () => {}, fail = () => {}, timeout = 60000 } = options;
    if (this.running >= TASK_LIMIT) {
      queueMicrotask(() => fail({ errMsg: `${api}:fail exceed max task count`, errno: 600007 }));
      return task;
    }
    this.running += 1;
    this.mostRunning = Math.max(this.mostRunning, this.running);
    this.emit('request', { api, url: options.url, header: headers });

    let settled = false;
    const settle = (callback, result) => {
      if (settled) return;
      settled = true;
      this.running -= 1;
      this.emit('response', { api, url: options.url, result });
      callback(result);
    };
    const request = http.request(options.url, {
      method, agent: this.agent, timeout,
      headers: { ...headers, Referer: `https://servicewechat.com/${this.appid}/0/page-frame.html` },
    }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => {
        chunks.push(chunk);
        if (enableChunked) task.emit('chunk', { data: toArrayBuffer(chunk) });
      });
      response.on('end', () => settle(success, toResult({
        statusCode: response.statusCode, headers: namesAsSent(response.rawHeaders), bytes: Buffer.concat(chunks),
      })));
    });
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.on('error', (error) => settle(fail, { errMsg: `${api}:fail ${error.message}`, errno: 600001 }));
    task.abort = () => request.destroy(new Error('abort'));
    request.end(body);
    return task;
  }

  connectSocket(options) {
    const socket = new FakeTask();
    socket.onOpen = (listener) => socket.on('open', listener);
    socket.onError = (listener) => socket.on('fault', listener);
    socket.close = () => socket.emit('close');
    const request = http.request(options.url.replace(/^ws/, 'http'), {
      headers: {
        ...options.header, Connection: 'Upgrade', Upgrade: 'websocket',
        'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA==',
      },
    });
    request.on('upgrade', (response, connection) => {
      socket.on('close', () => connection.destroy());
      socket.emit('open', { header: response.headers });
    });
    // The status of a refused handshake is not told.
    request.on('response', (response) => {
      response.resume();
      socket.emit('fault', { errMsg: 'connectSocket:fail' });
    });
    request.on('error', () => socket.emit('fault', { errMsg: 'connectSocket:fail' }));
    request.end();
    queueMicrotask(() => options.success({ errMsg: 'connectSocket:ok' }));
    return socket;
  }

  getStorageSync(key) {
    return this.stored.has(key) ? this.stored.get(key) : '';
  }

  setStorageSync(key, value) {
    this.stored.set(key, value);
  }

  removeStorageSync(key) {
    this.stored.delete(key);
  }

  getFileSystemManager() {
    return {
      readFile: ({ filePath, success, fail }) => queueMicrotask(() => (this.files.has(filePath)
        ? success({ data: this.files.get(filePath), errMsg: 'readFile:ok' })
        : fail({ errMsg: `readFile:fail no such file or directory "${filePath}"` }))),
    };
  }

  close() {
    this.agent.destroy();
  }
}

class FakeTask extends EventEmitter {
  abort() {}

  onChunkReceived(listener) {
    this.on('chunk', listener);
  }
}

function toBody(data) {
  return typeof data === 'string' ? data : JSON.stringify(data);
}

function fromBytes(bytes, dataType, responseType) {
  if (responseType === 'arraybuffer') return toArrayBuffer(bytes);
  const text = bytes.toString();
  if (dataType !== 'json') return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function toArrayBuffer(bytes) {
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

// Android, iOS and the developer tools disagree on the case of header names; this is as sent.
function namesAsSent(raw) {
  const header = {};
  for (let i = 0; i < raw.length; i += 2) header[raw[i]] = raw[i + 1];
  return header;
}

module.exports = { FakeWx };
