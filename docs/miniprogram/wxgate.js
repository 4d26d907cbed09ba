// The mini program's side of wxgate, the login gateway. It logs in with wx.login, keeps the session
// token, sends it with every request, and replaces it when the gateway no longer takes it.
//
// The rules, each of which is a mistake that mini programs make when they write this part themselves:
//   - Requests that need a session at the same time share one login.
//   - A request is sent again at most once after the gateway refused its session, and only the
//     gateway's own 401 counts: a 401 of the application behind it is the caller's answer.
//   - A refusal clears the token that was refused, not a newer one that another request brought.
//   - Nothing is repeated without a bound, neither logins nor waits.
//
// The file has no dependencies. It is written in ES2015 without async functions, because the files of
// an npm package reach the phone as they are, and old phones run them.
'use strict';

// What the gateway calls a session that it does not take.
const SESSION_ERRORS = ['missing_session', 'invalid_session'];

// The platform runs at most ten of wx.request, wx.uploadFile and wx.downloadFile at a time and fails
// the eleventh with "exceed max task count" (errno 600007).
const PLATFORM_CONCURRENCY = 10;

// If even a fresh session is refused, the fault is not the session: a proxy on the way may drop the
// header. Requests then get their 401 without another login for this long, in milliseconds.
const RELOGIN_PAUSE = 60 * 1000;

// A session that the gateway has taken within this time, in milliseconds, is trusted to be alive.
const TRUSTED = 10 * 60 * 1000;

// A gateway error is a short JSON object; of longer answers only the beginning is looked at, in bytes.
const ERROR_BODY_LIMIT = 4096;

// wx.login ends by its own timeout. Where it does not, the client gives up this much later, in milliseconds.
const LOGIN_GRACE = 1000;

// Waits get up to this much longer, in milliseconds, so that all phones do not come back at once.
const JITTER = 500;

const DEFAULTS = {
  loginPath: '/login',
  logoutPath: '/logout',
  tokenHeader: ['3rd_session', 'bearer'],
  timeout: 10000,
  concurrency: PLATFORM_CONCURRENCY,
  maxRetries: 2,
  maxRetryAfter: 10,
};

const PLATFORM = ['request', 'login', 'uploadFile', 'downloadFile', 'connectSocket', 'getFileSystemManager'];
const OPTIONS = ['baseURL', 'appid', 'storage', 'storageKey'].concat(Object.keys(DEFAULTS), PLATFORM);

// createClient makes a client for one gateway. Every option but baseURL has a default; wxgate.d.ts
// describes them, the methods and the errors.
function createClient(options) {
  const config = withDefaults(options);
  const base = parseBaseURL(config.baseURL);
  const platform = {};
  PLATFORM.forEach((name) => { platform[name] = platformFunction(config[name], name); });
  const storage = createTokenStorage(config.storage || wxStorage(), config.storageKey || 'wxgate:' + base);
  const inTurn = createQueue(config.concurrency);
  const sessions = createSessions(storage, logIn);

  // send makes one call of the platform when its turn comes. An urgent call goes first.
  function send(flight, api, params, urgent) {
    return inTurn(() => callPlatform(flight, api, platform[api], params), urgent);
  }

  // sendPatiently also waits and sends again while the gateway cannot reach its session store. That
  // is safe for every method, since the gateway passes nothing on before it knows the session. The
  // same status from the application is passed through, for what it has done already is unknown.
  function sendPatiently(flight, api, params) {
    return send(flight, api, params).then((response) =>
      readGatewayError(flight, response, platform).then((error) => {
        const unavailable = response.statusCode === 503 && error === 'store_unavailable';
        if (unavailable && flight.mayWait(response)) {
          return flight.wait(response).then(() => sendPatiently(flight, api, params));
        }
        return { response, refused: response.statusCode === 401 && SESSION_ERRORS.indexOf(error) >= 0 };
      }));
  }

  // sendWithSession sends the call with the session's token. If the gateway refuses the session, the
  // call is sent once more with another one; whatever comes back then is the answer.
  function sendWithSession(flight, api, params) {
    const sendAs = (session) => sendPatiently(flight, api, withToken(params, config.tokenHeader, session.token))
      .then((answer) => {
        if (!answer.refused && answer.response.statusCode < 500) session.takenAt = Date.now();
        return answer;
      });
    const sendAgain = (refused, response) => sessions.replace(refused).then((fresh) => {
      if (!fresh) return response;
      return sendAs(fresh).then((second) => {
        if (second.refused) sessions.refusedFresh(fresh);
        return second.response;
      });
    });
    return sessions.get().then((session) => sendAs(session).then((first) =>
      (first.refused ? sendAgain(session, first.response) : first.response)));
  }

  // sendBody sends an upload. The gateway refuses a dead session before it reads the body, and closes the
  // connection; a platform that is still sending then never sees the 401. So a session that may be dead is
  // tried with a request without a body first. The application behind may get it, too, and answer what it likes.
  function sendBody(flight, api, params) {
    return sessions.get().then((session) => {
      if (remaining(session.takenAt, TRUSTED) > 0) return undefined;
      const { onTask } = flight;
      flight.onTask = undefined; // The caller asked for the task of the upload.
      const trial = { url: params.url, method: 'OPTIONS', header: params.header, timeout: config.timeout };
      return sendWithSession(flight, 'request', trial).then(() => { flight.onTask = onTask; });
    }).then(() => sendWithSession(flight, api, params));
  }

  // logIn exchanges a code of wx.login for a session. Each attempt takes a new code, since a code works
  // once and a failed attempt may have used it up.
  function logIn() {
    const flight = createFlight(config);
    let freshCodes = 1;
    const code = () => limited(config.timeout + LOGIN_GRACE,
      callPlatform(flight, 'login', platform.login, { timeout: config.timeout }));
    const exchange = () => code()
      .then((result) => send(flight, 'request', {
        url: base + config.loginPath,
        method: 'POST',
        header: { 'content-type': 'application/json' },
        data: config.appid ? { code: result.code, appid: config.appid } : { code: result.code },
        timeout: config.timeout,
      }, true))
      .then((response) => {
        if (response.statusCode === 200) return parseSession(response);
        const error = answerError('logging in', response);
        if ((error.code === 'code_used' || error.code === 'invalid_code') && freshCodes > 0) {
          freshCodes -= 1;
          return exchange();
        }
        if ((response.statusCode === 429 || response.statusCode === 503) && flight.mayWait(response)) {
          return flight.wait(response).then(exchange);
        }
        throw error;
      });
    return exchange();
  }

  // logOut tells the gateway. That the session was dead already is as good as a success.
  function logOut(session) {
    const params = { url: base + config.logoutPath, method: 'POST', header: {}, timeout: config.timeout };
    const flight = createFlight(config);
    return sendPatiently(flight, 'request', withToken(params, config.tokenHeader, session.token)).then((answer) => {
      if (answer.response.statusCode !== 204 && !answer.refused) throw answerError('logging out', answer.response);
    });
  }

  // method makes the public function for one API of the platform: it returns a promise with abort().
  function method(api) {
    return (params) => abortable(createFlight(config), api, (flight) => {
      const prepared = prepare(params, base);
      flight.onTask = params.onTask;
      if (!params.anonymous) return (api === 'uploadFile' ? sendBody : sendWithSession)(flight, api, prepared);
      return sendPatiently(flight, api, prepared).then((answer) => answer.response);
    });
  }

  const request = method('request');

  return {
    request,
    uploadFile: method('uploadFile'),
    downloadFile: method('downloadFile'),

    // The platform does not tell a program why a handshake was refused, so a socket is opened once
    // with the session that there is. It does not count among the ten requests.
    connectSocket(params) {
      return attempt(() => {
        const prepared = prepare(params, base);
        prepared.url = prepared.url.replace(/^http/, 'ws');
        return sessions.get().then((session) => openSocket(
          platform.connectSocket, withToken(prepared, config.tokenHeader, session.token)));
      });
    },

    phone(code, path, data) {
      return request({ url: path, method: 'POST', data: Object.assign({}, data, { phoneCode: code }) });
    },

    login(how) {
      return (how && how.force ? sessions.renew() : sessions.get()).then(() => undefined);
    },

    logout() {
      return sessions.end(logOut);
    },
  };
}

// createSessions keeps the one session and decides when to log in.
function createSessions(storage, logIn) {
  let current = storage.load();
  let loggingIn = null;
  let hold = null; // the last login's error, if the gateway asked to try later, and since when
  let pausedSince = 0;

  function renew() {
    if (loggingIn) return loggingIn;
    const left = hold ? remaining(hold.since, hold.error.retryAfter * 1000) : 0;
    if (left > 0) {
      const details = Object.assign({}, hold.error, { retryAfter: Math.ceil(left / 1000) });
      return Promise.reject(newError(hold.error.code, hold.error.message, details));
    }
    loggingIn = logIn().then((session) => {
      loggingIn = null;
      hold = null;
      current = session;
      storage.save(session);
      return session;
    }, (error) => {
      loggingIn = null;
      hold = error.retryAfter > 0 ? { since: Date.now(), error } : null;
      throw error;
    });
    return loggingIn;
  }

  // get returns the live session, or logs in if there is none or its lifetime is over.
  function get() {
    return current && current.expiresAt > Date.now() ? Promise.resolve(current) : renew();
  }

  function forget() {
    current = null;
    storage.clear();
  }

  // replace returns the session to use instead of the refused one, or null if the refusal stands.
  function replace(refused) {
    if (refused.loggedOut) return Promise.resolve(null);
    if (current !== refused) return get();
    if (remaining(pausedSince, RELOGIN_PAUSE) > 0) return Promise.resolve(null);
    forget();
    return renew();
  }

  // refusedFresh notes that a replay was refused too, so that the next request does not log in again.
  function refusedFresh(session) {
    if (!session.loggedOut) pausedSince = Date.now();
  }

  // end forgets the session before anything can fail, then lets the caller tell the gateway. A login
  // under way is awaited, for its session would outlive the logout.
  function end(tell) {
    const settled = loggingIn ? loggingIn.then(() => undefined, () => undefined) : Promise.resolve();
    return settled.then(() => {
      const ended = current;
      forget();
      if (!ended || ended.expiresAt <= Date.now()) return undefined;
      // Requests that are under way with this token will be refused; they must not log in again.
      ended.loggedOut = true;
      return tell(ended);
    });
  }

  return { get, renew, replace, refusedFresh, end };
}

// createTokenStorage keeps the session from one start of the mini program to the next. Storage that
// fails or is full costs a login at the next start and nothing more.
function createTokenStorage(storage, key) {
  return {
    load() {
      try {
        const stored = parseJSON(storage.get(key));
        const valid = stored && typeof stored.token === 'string' && stored.expiresAt > 0;
        return valid ? { token: stored.token, expiresAt: stored.expiresAt, takenAt: 0, loggedOut: false } : null;
      } catch (error) {
        return null;
      }
    },
    save(session) {
      try {
        storage.set(key, JSON.stringify({ token: session.token, expiresAt: session.expiresAt }));
      } catch (error) {
        this.clear(); // An older token must not come back at the next start.
      }
    },
    clear() {
      try {
        storage.remove(key);
      } catch (error) {
        // The token is gone from memory, and a stored one that is dead costs one refused request.
      }
    },
  };
}

// createQueue returns a function that runs work when fewer than limit others are running.
function createQueue(limit) {
  const waiting = [];
  let running = 0;

  function next() {
    while (running < limit && waiting.length > 0) {
      running += 1;
      waiting.shift()();
    }
  }

  return (work, urgent) => new Promise((resolve, reject) => {
    const done = (settle) => (value) => {
      running -= 1;
      settle(value);
      next();
    };
    const run = () => attempt(work).then(done(resolve), done(reject));
    if (urgent) waiting.unshift(run);
    else waiting.push(run);
    next();
  });
}

// createFlight follows one call of the client through queueing, waiting and replay: its budget of
// waits, the running task of the platform, and whether the caller has given up.
function createFlight(config) {
  let retries = config.maxRetries;
  return {
    aborted: false,
    task: null,
    onTask: undefined,
    firstBytes: '',
    mayWait: (response) => retries > 0 && retryAfter(response) <= config.maxRetryAfter,
    wait(response) {
      retries -= 1;
      const delay = retryAfter(response) * 1000 + Math.random() * JITTER;
      return new Promise((resolve) => setTimeout(resolve, delay));
    },
  };
}

// abortable runs work and returns its promise with abort(), which takes effect in every state: queued,
// waiting for a login, or running.
function abortable(flight, api, work) {
  let giveUp;
  const promise = new Promise((resolve, reject) => {
    giveUp = reject;
    attempt(() => work(flight)).then(resolve, reject);
  });
  promise.abort = () => {
    flight.aborted = true;
    giveUp(abortError(api));
    if (flight.task && typeof flight.task.abort === 'function') flight.task.abort();
  };
  return promise;
}

// callPlatform calls one function of the platform, which answers through success or fail. Any HTTP
// status is a success.
function callPlatform(flight, api, call, params) {
  if (flight.aborted) return Promise.reject(abortError(api));
  flight.firstBytes = '';
  return new Promise((resolve, reject) => {
    const task = call(Object.assign({}, params, {
      success: (result) => resolve(withStatusNumber(result)),
      fail: (failure) => reject(platformError(api, failure)),
    }));
    flight.task = task;
    // Taro returns a promise beside calling fail; its rejection is ours already.
    if (task && typeof task.catch === 'function') task.catch(() => undefined);
    if (params.enableChunked) keepFirstBytes(flight, task);
    if (task && flight.onTask) flight.onTask(task);
  });
}

// withStatusNumber returns the result with its status as a number: HarmonyOS gives uploads a text.
function withStatusNumber(result) {
  if (!result || typeof result.statusCode !== 'string') return result;
  return Object.assign({}, result, { statusCode: Number(result.statusCode) });
}

// limited rejects if a call of wx.login is not answered within a time, in milliseconds.
function limited(time, call) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(platformError('login', { errMsg: 'login:fail timeout' })), time);
    const ending = (settle) => (value) => {
      clearTimeout(timer);
      settle(value);
    };
    call.then(ending(resolve), ending(reject));
  });
}

// keepFirstBytes remembers the beginning of a chunked answer, which may not be in the result's data.
function keepFirstBytes(flight, task) {
  if (!task || typeof task.onChunkReceived !== 'function') return;
  task.onChunkReceived((chunk) => {
    if (flight.firstBytes.length < ERROR_BODY_LIMIT) flight.firstBytes += textOf(chunk.data);
  });
}

// openSocket resolves with the socket task as soon as there is one, so that no event is missed.
function openSocket(connect, params) {
  return new Promise((resolve, reject) => {
    // uni-app returns a task only to a caller that passes a callback.
    const task = connect(Object.assign({}, params, {
      success: () => undefined,
      fail: (failure) => reject(platformError('connectSocket', failure)),
    }));
    resolve(task);
  });
}

// prepare checks what the caller passed and returns the platform's parameters. The token goes to the
// gateway and nowhere else, so any other address is refused.
function prepare(params, base) {
  if (!params || typeof params.url !== 'string') throw new TypeError('wxgate: url is missing');
  if (params.success || params.fail || params.complete) {
    throw new TypeError('wxgate: the client returns a promise and takes no success, fail or complete');
  }
  const prepared = Object.assign({}, params, { url: absoluteURL(params.url, base) });
  delete prepared.onTask;
  delete prepared.anonymous;
  return prepared;
}

function absoluteURL(url, base) {
  const absolute = url.charAt(0) === '/' ? base + url : url.replace(/^ws(s?):/, 'http$1:');
  const rest = absolute.slice(base.length);
  if (absolute.slice(0, base.length) === base && /^([/?]|$)/.test(rest)) return absolute;
  throw new TypeError('wxgate: url must begin with / or with baseURL');
}

function withDefaults(options) {
  const config = Object.assign({}, options);
  Object.keys(config).forEach((name) => {
    if (OPTIONS.indexOf(name) < 0) throw new TypeError('wxgate: createClient has no option ' + name);
  });
  Object.keys(DEFAULTS).forEach((name) => {
    if (config[name] === undefined) config[name] = DEFAULTS[name];
  });
  if (!(config.concurrency >= 1)) throw new TypeError('wxgate: concurrency must be at least 1');
  return config;
}

function parseBaseURL(url) {
  if (typeof url !== 'string' || !/^https?:\/\/[^/?#@\\\s]+(\/[^?#\s]*)?$/.test(url)) {
    throw new TypeError('wxgate: baseURL must be the gateway\'s address, such as https://api.example.com');
  }
  return url.replace(/\/+$/, '');
}

// withToken returns params with the token in each of its headers and no other value there. With several
// headers, the application may have an Authorization of its own.
function withToken(params, tokenHeader, token) {
  const given = params.header || {};
  const isGiven = (name) => Object.keys(given).some((key) => key.toLowerCase() === name.toLowerCase());
  const sources = [].concat(tokenHeader);
  const names = {};
  sources.forEach((source) => {
    if (source !== 'bearer') names[source] = token;
    else if (sources.length === 1 || !isGiven('Authorization')) names.Authorization = 'Bearer ' + token;
  });
  const taken = Object.keys(names).map((name) => name.toLowerCase());
  const header = {};
  Object.keys(given).forEach((key) => {
    if (taken.indexOf(key.toLowerCase()) < 0) header[key] = given[key];
  });
  return Object.assign({}, params, { header: Object.assign(header, names) });
}

// readGatewayError resolves with the name of the gateway's error, or an empty string if the answer is
// not one that matters here. The answer to a download is in a file.
function readGatewayError(flight, response, platform) {
  if (response.statusCode !== 401 && response.statusCode !== 503) return Promise.resolve('');
  const nameOf = (data) => (gatewayError(data) || { error: '' }).error;
  const path = response.tempFilePath || response.filePath;
  if (!path) return Promise.resolve(nameOf(response.data) || nameOf(flight.firstBytes));
  return new Promise((resolve) => {
    platform.getFileSystemManager().readFile({
      filePath: path,
      encoding: 'utf8',
      success: (file) => resolve(nameOf(file.data)),
      fail: () => resolve(''),
    });
  }).catch(() => ''); // Without a file system the caller gets the answer as it is.
}

// gatewayError recognises {"error":"…","message":"…"}, however the platform was told to deliver it.
function gatewayError(data) {
  let body = data;
  if (!body || typeof body !== 'object' || isBinary(body)) {
    const text = textOf(body);
    body = text.length <= ERROR_BODY_LIMIT ? parseJSON(text) : null;
  }
  return body && typeof body.error === 'string' && typeof body.message === 'string' ? body : null;
}

function isBinary(data) {
  return Object.prototype.toString.call(data) === '[object ArrayBuffer]';
}

// textOf reads a string or bytes. The gateway's errors are ASCII, so one byte is one character.
function textOf(data) {
  if (typeof data === 'string') return data;
  if (!isBinary(data)) return '';
  return String.fromCharCode.apply(null, new Uint8Array(data.slice(0, ERROR_BODY_LIMIT + 1)));
}

// remaining returns how much of a pause is left, in milliseconds. A clock that was set back ends it.
function remaining(since, length) {
  const passed = Date.now() - since;
  return passed >= 0 && passed < length ? length - passed : 0;
}

// retryAfter returns the seconds that the gateway asks to wait, at least one. Uploads and downloads do
// not show their headers on every platform.
function retryAfter(response) {
  const header = response.header || {};
  const name = Object.keys(header).find((key) => key.toLowerCase() === 'retry-after');
  const seconds = Number(header[name]);
  return seconds > 1 && seconds < Infinity ? seconds : 1;
}

function parseSession(response) {
  const answer = typeof response.data === 'string' ? parseJSON(response.data) : response.data;
  const token = answer && answer['3rd_session'];
  if (typeof token !== 'string' || token === '' || !(answer.expires_in > 0)) {
    throw newError('unexpected_reply', 'logging in: the answer holds no session', { statusCode: 200 });
  }
  const now = Date.now();
  return { token, expiresAt: now + answer.expires_in * 1000, takenAt: now, loggedOut: false };
}

function parseJSON(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    return null;
  }
}

function answerError(doing, response) {
  const error = gatewayError(response.data);
  const details = { statusCode: response.statusCode };
  if (response.statusCode === 429 || response.statusCode === 503) details.retryAfter = retryAfter(response);
  if (!error) return newError('unexpected_reply', doing + ': status ' + response.statusCode, details);
  if (error.errcode !== undefined) details.errcode = error.errcode;
  return newError(error.error, doing + ': ' + error.error + ': ' + error.message, details);
}

function platformError(api, failure) {
  const errMsg = String((failure && failure.errMsg) || api + ':fail');
  const details = { errMsg };
  if (failure && failure.errno !== undefined) details.errno = failure.errno;
  const code = api === 'login' ? 'wx_login_failed' : 'network';
  return newError(code, 'calling ' + api + ': ' + errMsg, details);
}

function abortError(api) {
  return newError('aborted', 'calling ' + api + ': aborted', { errMsg: api + ':fail abort' });
}

// newError makes an Error rather than an instance of a class of its own, because subclasses of Error
// lose their identity when the mini program's tools compile to ES5.
function newError(code, message, details) {
  return Object.assign(new Error(message), { name: 'WxgateError', code }, details);
}

// attempt turns a thrown error into a rejection.
function attempt(work) {
  return new Promise((resolve) => resolve(work()));
}

// platformFunction returns what the caller passed in, or the function of wx, looked up at each call.
function platformFunction(given, name) {
  return given || ((params) => {
    if (typeof wx === 'undefined' || typeof wx[name] !== 'function') {
      throw new TypeError('wxgate: this platform has no wx.' + name + '; pass ' + name + ' to createClient');
    }
    return wx[name](params);
  });
}

function wxStorage() {
  return {
    get: (key) => wx.getStorageSync(key),
    set: (key, value) => wx.setStorageSync(key, value),
    remove: (key) => wx.removeStorageSync(key),
  };
}

module.exports = { createClient };
