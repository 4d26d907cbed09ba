/** What createClient needs to know. Only baseURL has no default. */
export interface ClientOptions {
  /**
   * The gateway's address, such as `https://api.example.com`, perhaps with a path. The token is sent to
   * addresses under it and to no others.
   */
  baseURL: string;

  /** The site's `login` path. Default: `/login` */
  loginPath?: string;

  /** The site's `logout` path. Default: `/logout` */
  logoutPath?: string;

  /**
   * How the token travels, as in the site's `token_from`: a header's name, or `bearer` for
   * `Authorization: Bearer`, or several. Many proxies drop a header with an underscore in its name, and an
   * `Authorization` that a call sets for the application is kept if there are several.
   * Default: `['3rd_session', 'bearer']`
   */
  tokenHeader?: string | string[];

  /**
   * The mini program's appid. Only needed if the site serves several and WeChat's Referer does not
   * arrive at the gateway. Default: none
   */
  appid?: string;

  /** How long wx.login, a login and a logout may each take, in milliseconds. Default: 10000 */
  timeout?: number;

  /**
   * How many requests, uploads and downloads run at a time; more wait. The platform's limit is 10 for the
   * whole mini program, so lower it if others use wx.request beside the client. Default: 10
   */
  concurrency?: number;

  /**
   * How often one call waits for the gateway's Retry-After and is sent again. 0 reports at once.
   * Default: 2
   */
  maxRetries?: number;

  /** The longest Retry-After that a call waits for, in seconds; a longer one is reported. Default: 10 */
  maxRetryAfter?: number;

  /** The storage entry that holds the token. Default: `wxgate:` and baseURL */
  storageKey?: string;

  /** Where the token is kept between two starts. Default: wx's synchronous storage */
  storage?: TokenStorage;

  /** Default: wx.request. Taro.request and uni.request fit. */
  request?: PlatformFunction;

  /** Default: wx.login. Taro.login and uni.login fit. */
  login?: PlatformFunction;

  /** Default: wx.uploadFile */
  uploadFile?: PlatformFunction;

  /** Default: wx.downloadFile */
  downloadFile?: PlatformFunction;

  /** Default: wx.connectSocket */
  connectSocket?: PlatformFunction;

  /**
   * Default: wx.getFileSystemManager. Without one, a download whose session was refused is not repeated,
   * since the refusal is in the downloaded file.
   */
  getFileSystemManager?: () => any;
}

/** A function of the platform that reports through the success and fail of its parameter. */
export type PlatformFunction = (params: any) => unknown;

/** What the socket tasks of all platforms have. */
export interface PlatformSocket {
  send(options: { data: string | ArrayBuffer; success?: (result: any) => void; fail?: (result: any) => void }): void;
  close(options?: { code?: number; reason?: string }): void;
  onOpen(listener: (result: any) => void): void;
  onClose(listener: (result: any) => void): void;
  onError(listener: (result: any) => void): void;
  onMessage(listener: (result: { data: any }) => void): void;
}

/** A small synchronous store of strings. A get that finds nothing returns anything but JSON. */
export interface TokenStorage {
  get(key: string): any;
  set(key: string, value: string): void;
  remove(key: string): void;
}

/** What every call that goes over the network takes. */
export interface CallOptions {
  /** A path that begins with `/`, or an address under baseURL. */
  url: string;

  /** Request headers. One that is named as the token's header is replaced. */
  header?: Record<string, string>;

  /** Milliseconds. Default: the platform's, 60000 */
  timeout?: number;

  /**
   * Send it without a session and without logging in, for a path that the site declares `public`.
   * Default: false
   */
  anonymous?: boolean;

  /**
   * Gets the platform's task object when the call starts, for progress, headers and chunks. After a refused
   * session or a wait it is called again with the new task, and what the earlier one delivered does
   * not count.
   */
  onTask?: (task: any) => void;

  /** The client returns promises. */
  success?: never;
  fail?: never;
  complete?: never;
}

export interface RequestOptions extends CallOptions {
  /** Default: `GET` */
  method?: 'OPTIONS' | 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE' | 'TRACE' | 'CONNECT' | 'PATCH';
  data?: string | object | ArrayBuffer;
  /** Default: `json`, which parses the answer */
  dataType?: 'json' | (string & {});
  /** Default: `text` */
  responseType?: 'text' | 'arraybuffer';
  enableHttp2?: boolean;
  enableQuic?: boolean;
  enableCache?: boolean;
  enableHttpDNS?: boolean;
  httpDNSServiceId?: string;
  enableChunked?: boolean;
  forceCellularNetwork?: boolean;
  redirect?: 'follow' | 'manual' | 'error';
}

export interface UploadOptions extends CallOptions {
  filePath: string;
  /** The form field that holds the file. */
  name: string;
  formData?: Record<string, any>;
}

export interface DownloadOptions extends CallOptions {
  /** Default: a temporary file */
  filePath?: string;
}

export interface SocketOptions {
  /** A path that begins with `/`, or an address under baseURL, which may be written with wss. */
  url: string;
  header?: Record<string, string>;
  protocols?: string[];
  tcpNoDelay?: boolean;
  perMessageDeflate?: boolean;
  timeout?: number;
  forceCellularNetwork?: boolean;
  success?: never;
  fail?: never;
  complete?: never;
}

/** As in wx.request, every status is an answer, also 401 and 500. */
export interface RequestResult<T> {
  data: T;
  statusCode: number;
  header: Record<string, string>;
  cookies?: string[];
  errMsg: string;
}

export interface UploadResult {
  /** The answer as it came; it is not parsed. */
  data: string;
  statusCode: number;
  errMsg: string;
}

export interface DownloadResult {
  /** Set unless filePath was given. */
  tempFilePath?: string;
  filePath?: string;
  /** Of another status than 200, the file holds the error. */
  statusCode: number;
  errMsg: string;
}

/** A promise whose call can be given up: it rejects with `aborted`, and what runs is stopped. */
export interface Abortable<T> extends Promise<T> {
  abort(): void;
}

/** What a promise of the client rejects with, beside a TypeError for wrong use. */
export interface WxgateError extends Error {
  name: 'WxgateError';

  /**
   * - `network`: the platform could not carry the call; errMsg and errno say why
   * - `aborted`: abort() was called
   * - `wx_login_failed`: wx.login gave no code
   * - `unexpected_reply`: login or logout was answered by something else than the gateway
   * - any other: the gateway's name for why login or logout failed
   */
  code:
    | 'network'
    | 'aborted'
    | 'wx_login_failed'
    | 'unexpected_reply'
    | 'bad_request'
    | 'invalid_code'
    | 'code_used'
    | 'user_blocked'
    | 'method_not_allowed'
    | 'body_too_large'
    | 'unsupported_media_type'
    | 'rate_limited'
    | 'wechat_rejected_gateway'
    | 'wechat_bad_reply'
    | 'wechat_busy'
    | 'store_unavailable'
    | 'wechat_timeout'
    | (string & {});

  /** The HTTP status, if there was an answer. */
  statusCode?: number;

  /** The seconds after which another try makes sense; the client itself asks no earlier. */
  retryAfter?: number;

  /** WeChat's own number, if it gave one. */
  errcode?: number;

  /** The platform's message and number, for `network`, `aborted` and `wx_login_failed`. */
  errMsg?: string;
  errno?: number;
}

export interface Client {
  /**
   * Like wx.request, with a session. Logs in first if there is no live session. If the gateway
   * refuses the session, logs in and sends once more. T is the type of the answer's data.
   */
  request<T = unknown>(options: RequestOptions): Abortable<RequestResult<T>>;

  /**
   * Like wx.uploadFile, with a session. A session that the gateway has not taken for ten minutes is tried
   * first, with an OPTIONS request for the same address, which the application may see.
   */
  uploadFile(options: UploadOptions): Abortable<UploadResult>;

  /** Like wx.downloadFile, with a session. */
  downloadFile(options: DownloadOptions): Abortable<DownloadResult>;

  /**
   * Like wx.connectSocket, with a session; resolves with the platform's socket task. The platform does
   * not say why a handshake was refused, so a refused session is not noticed here: on an error before
   * the socket opened, make any request, which renews the session, and connect again.
   */
  connectSocket<Task = PlatformSocket>(options: SocketOptions): Promise<Task>;

  /**
   * Posts the code of a `<button open-type="getPhoneNumber">` (event.detail.code) to a path that the
   * gateway declares `open_data` with `phone`. The application receives the verified phone number, and
   * the promise resolves with its answer. A 409 `open_data_rejected` means that the user has to tap again.
   * data is what else the application needs.
   */
  phone<T = any>(code: string, path: string, data?: object): Abortable<RequestResult<T>>;

  /**
   * Logs in unless there is a live session, so that the first page need not wait. With force it logs in in
   * any case, as after `open_data_rejected`.
   */
  login(options?: { force?: boolean }): Promise<void>;

  /**
   * Ends the session. The phone forgets it at once; the promise rejects if the gateway could not be told,
   * where the session then ends by itself. The next request logs in again.
   */
  logout(): Promise<void>;
}

/** Makes the client for one gateway. Make it once and share it: each has its own session. */
export function createClient(options: ClientOptions): Client;
