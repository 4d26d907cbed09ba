// Package wechat asks WeChat who a mini program's user is.
//
// A mini program calls wx.login and gets a code: 32 characters that live for
// five minutes and work once. Only someone who knows the mini program's secret
// can exchange the code for the user's openid and session_key, by calling
// code2Session. That call is all that a [Client] does, and it is harder than
// it looks:
//
//   - The code works once. A request that is sent twice, by an eager retry or
//     by Go's transport when a kept connection dies, burns the code, and the
//     user reads "code been used" though the code was used once. So the
//     connections are kept by a pool that sends exactly once, and an exchange is repeated
//     only in the two cases in which WeChat answers that it did not look at the code.
//   - The secret and the code are in the URL. So no error of net/http, whose
//     text may hold the URL, leaves this package, and no redirect is followed.
//   - The reply decides who the user is. So it is read strictly: what is not
//     plainly a clean reply is an error, never a session; and a connection with
//     bytes beyond the end of a reply is not used again.
//   - WeChat may be slow, down or out of quota. So the time and the number of
//     calls are bounded, and a breaker per mini program stops calling for a
//     while when it is of no use.
//
// The session_key that comes back has one use, the user's open data: see
// [OpenData].
//
// The other side is described at
// https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
// as far as it is described at all; the errcodes come from there, from WeChat's
// community and from the public SDKs.
package wechat
