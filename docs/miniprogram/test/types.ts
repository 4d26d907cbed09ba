// What the type checker must accept and refuse: `npm run check`.
import { createClient, type Abortable, type Client, type RequestResult, type WxgateError } from '../wxgate';

const client: Client = createClient({ baseURL: 'https://api.example.com' });

createClient({
  baseURL: 'https://api.example.com',
  loginPath: '/wx/login',
  tokenHeader: 'bearer',
  request: wx.request,
  login: wx.login,
  uploadFile: wx.uploadFile,
  downloadFile: wx.downloadFile,
  connectSocket: wx.connectSocket,
  getFileSystemManager: wx.getFileSystemManager,
  storage: {
    get: (key) => wx.getStorageSync(key),
    set: (key, value) => wx.setStorageSync(key, value),
    remove: wx.removeStorageSync,
  },
});

// @ts-expect-error baseURL is required
createClient({});
// @ts-expect-error an option that does not exist
createClient({ baseURL: 'https://api.example.com', baseUrl: '' });

interface Order { id: number }
const call: Abortable<RequestResult<Order[]>> = client.request<Order[]>({ url: '/orders' });
call.abort();
call.then((response) => response.data[0].id.toFixed());

// @ts-expect-error the data of an answer is of no known type unless the caller says so
client.request({ url: '/orders' }).then((response) => response.data[0]);
createClient({ baseURL: 'https://api.example.com', tokenHeader: ['X-Session', 'bearer'] });

client.request({
  url: '/orders',
  method: 'POST',
  data: { item: 1 },
  responseType: 'arraybuffer',
  onTask: (task: WechatMiniprogram.RequestTask) => task.onHeadersReceived(() => undefined),
}).catch((error: WxgateError) => {
  if (error.code === 'rate_limited' && error.retryAfter !== undefined) error.retryAfter.toFixed();
});

// @ts-expect-error the client returns a promise
client.request({ url: '/', success: () => undefined });
// @ts-expect-error url is required
client.request({});

client.uploadFile({ url: '/photos', filePath: 'wxfile://photo', name: 'photo' }).then((response) => response.data.length);
// @ts-expect-error name is required
client.uploadFile({ url: '/photos', filePath: 'wxfile://photo' });

client.downloadFile({ url: '/report' }).then((response) => response.tempFilePath?.length);

client.connectSocket<WechatMiniprogram.SocketTask>({ url: '/chat' }).then((socket) => socket.send({ data: 'hello' }));

client.phone<{ ok: boolean }>('code', '/user/phone', { order: 7 }).then((response) => response.data.ok);
// @ts-expect-error path is required
client.phone('code');
client.connectSocket({ url: '/chat' }).then((socket) => socket.onMessage(({ data }) => socket.send({ data })));

client.login({ force: true }).then(() => client.logout());
