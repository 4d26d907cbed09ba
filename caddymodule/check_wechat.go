package caddymodule

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const (
	subjectWeChat = "wechat"
	subjectClock  = "clock"
)

// checkWeChat examines the way to WeChat and each mini program's standing there.
func (d *doctor) checkWeChat(ctx context.Context) {
	reachable := d.checkProxy() && d.checkReachable(ctx)
	for _, mp := range d.app.MiniPrograms {
		d.checkMiniProgram(ctx, mp, reachable)
	}
}

// checkProxy looks the proxy up, and says whether WeChat can be asked.
func (d *doctor) checkProxy() (ok bool) {
	raw := d.app.WeChatProxy
	if checkProxy(raw) != nil && raw != "" {
		return false // App.check has said so
	}
	d.checkPlaceholderFiles(subjectWeChat, raw)
	proxy, written, err := resolveProxy(raw)
	if err != nil {
		d.fault(subjectWeChat, err.Error(), fixUnset)
		return false
	}
	if written {
		d.warnWritten(subjectWeChat, "the password of wechat_proxy")
	}
	d.proxy = proxy
	return true
}

// checkReachable looks WeChat's host up and asks it for nothing, without any
// secret; its answer also tells the time.
func (d *doctor) checkReachable(ctx context.Context) bool {
	if err := wechat.ValidateBaseURL(d.app.WeChatAPI); err != nil {
		return false // App.check has said so
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if d.proxy != "" {
		proxy, err := url.Parse(d.proxy)
		if err != nil {
			return false // checkProxy has said so
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	client := &http.Client{
		Transport:     transport,
		Timeout:       askTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, d.app.WeChatAPI, nil)
	if err != nil {
		return false
	}
	begin := time.Now()
	resp, err := client.Do(req)
	took := time.Since(begin)
	if err != nil {
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		d.fault(subjectWeChat, fmt.Sprintf("%s does not answer: %v", d.app.WeChatAPI, err),
			"this machine needs DNS and a way out to that host (usually port 443); if there is a proxy: wechat_proxy <url>; a certificate that is not yet or no longer valid may be a wrong clock")
		return false
	}
	defer resp.Body.Close()
	d.ok(subjectWeChat, "%s answers in %d ms", d.app.WeChatAPI, took.Milliseconds())
	d.checkClock(resp.Header.Get("Date"), begin.Add(took/2))
	return true
}

// The clock decides when sessions end and how old open data is. The header Date
// has whole seconds.
const (
	clockDoubtful = 10 * time.Second
	clockWrong    = time.Minute
)

// checkClock compares the clock of this machine at the time now with WeChat's.
func (d *doctor) checkClock(date string, now time.Time) {
	there, err := http.ParseTime(date)
	if err != nil {
		return // it does not say
	}
	off := now.Sub(there).Truncate(time.Second)
	message := fmt.Sprintf("it is %v ahead of WeChat's", off)
	if off < 0 {
		message = fmt.Sprintf("it is %v behind WeChat's", -off)
	}
	const fix = "set it, and keep it right: timedatectl set-ntp true"
	switch {
	case off.Abs() >= clockWrong:
		d.fault(subjectClock, message+": sessions end at the wrong time, and open data looks too old or too new", fix)
	case off.Abs() >= clockDoubtful:
		d.warn(subjectClock, message, fix)
	default:
		d.ok(subjectClock, "agrees with WeChat's")
	}
}

// checkMiniProgram examines the secrets of a mini program and asks WeChat
// whether it accepts them.
func (d *doctor) checkMiniProgram(ctx context.Context, mp MiniProgram, reachable bool) {
	subject := "miniprogram " + mp.AppID
	secret, ok := d.checkSecret(subject, "the secret", mp.Secret)
	old := ""
	if mp.OldSecret != "" {
		var oldOK bool
		old, oldOK = d.checkSecret(subject, "the old secret", mp.OldSecret)
		ok = ok && oldOK
	}
	if !ok || checkAppID(mp.AppID) != nil {
		return
	}
	if !reachable {
		d.warn(subject, "the secret is there; WeChat could not be asked about it", "mend the way to WeChat first")
		return
	}
	begin := time.Now()
	err := d.askWeChat(ctx, mp.AppID, secret)
	took := time.Since(begin)
	if old != "" && errcodeOf(err) == errcodeSecretRefused && accepted(d.askWeChat(ctx, mp.AppID, old)) {
		d.warn(subject, "WeChat refuses the new secret and accepts the old one: the gateway gets by with it",
			"finish the change at mp.weixin.qq.com, or correct the new secret")
		return
	}
	d.judgeAnswer(subject, err, took)
}

// askWeChat sends WeChat a code that cannot be one.
func (d *doctor) askWeChat(ctx context.Context, appID, secret string) error {
	client, err := wechat.NewClient(wechat.Config{
		BaseURL:      d.app.WeChatAPI,
		ProxyURL:     d.proxy,
		Timeout:      askTime,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Code2Session(ctx, appID, "wxgate-check-"+rand.Text())
	return err
}

// accepted reports whether WeChat got as far as judging the code.
func accepted(err error) bool {
	return errors.Is(err, wechat.InvalidCode) || errors.Is(err, wechat.CodeUsed)
}

func errcodeOf(err error) int64 {
	if wx, ok := errors.AsType[*wechat.Error](err); ok && wx.HasErrcode {
		return wx.Errcode
	}
	return 0
}

// What WeChat answers to a set-up that is wrong; see its table of errcodes.
const (
	errcodeAppIDUnknown  = 40013
	errcodeSecretRefused = 40125
	errcodeAddressClosed = 40164
)

func (d *doctor) judgeAnswer(subject string, err error, took time.Duration) {
	wx, _ := errors.AsType[*wechat.Error](err)
	switch {
	case err == nil:
		d.warn(subject, "a made-up code was accepted: whatever answers at wechat_api is not WeChat", "set wechat_api to https://api.weixin.qq.com, or remove it")
	case accepted(err):
		d.ok(subject, "WeChat accepts the appid and the secret (%d ms)", took.Milliseconds())
	case errcodeOf(err) == errcodeAppIDUnknown:
		d.fault(subject, "WeChat does not know the appid (40013)", "copy the AppID from mp.weixin.qq.com, Development settings")
	case errcodeOf(err) == errcodeSecretRefused:
		d.fault(subject, "WeChat refuses the secret (40125)", "copy the AppSecret from mp.weixin.qq.com, Development settings, or reset it there; while it changes: miniprogram <appid> <new> <old>")
	case errcodeOf(err) == errcodeAddressClosed:
		d.fault(subject, "WeChat refuses this machine's address (40164): "+wx.Errmsg, "add the address to the list at mp.weixin.qq.com, Development settings")
	case errors.Is(err, wechat.Busy), errors.Is(err, wechat.RateLimited):
		d.warn(subject, "WeChat is too busy to say whether it accepts the secret: "+wx.Reason, "try again in a minute")
	default:
		d.fault(subject, err.Error(), "see docs/troubleshooting.md; WeChat's support asks for the rid in the gateway's log")
	}
}
