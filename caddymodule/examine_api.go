package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// examineAPI examines what wxgate_api and phone numbers need: an access_token
// of each mini program, and a name of WeChat's API that does not lead here. It
// must come after the sites were provisioned.
func (a *App) examineAPI(ctx context.Context, f *Findings) {
	if !a.usesAPI.Load() {
		return
	}
	if u, err := url.Parse(a.WeChatAPI); err == nil && a.WeChatProxy == "" {
		lookup, cancel := context.WithTimeout(ctx, askTimeout)
		addresses, _ := net.DefaultResolver.LookupIP(lookup, "ip", u.Hostname()) // what fails, examineWeChat has told
		cancel()
		examineName(f, u.Hostname(), addresses)
	}
	for _, mp := range a.MiniPrograms {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		err := a.api.Tokens().Try(ctx, mp.AppID)
		cancel()
		subject := "access_token " + mp.AppID
		if err == nil {
			f.OK(subject, "WeChat gives one to this machine")
			continue
		}
		fix := "fix the connection to WeChat; see docs/troubleshooting.md"
		if wx, ok := errors.AsType[*wechat.Error](err); ok && wx.Cure() != "" {
			fix = wx.Cure()
		}
		f.Fault(subject, err.Error(), fix)
	}
}

// examineName finds a name that was mapped to the gateway for applications from
// Cloud Hosting, and for the gateway too.
func examineName(f *Findings, host string, addresses []net.IP) {
	if host == "localhost" || net.ParseIP(host) != nil {
		return // what was written is what was meant
	}
	for _, ip := range addresses {
		if ip.IsLoopback() || ip.IsPrivate() {
			f.Fault("wechat", fmt.Sprintf("%s is %v on this machine, so the gateway would call itself or a neighbour", host, ip),
				"take the name out of /etc/hosts here, or set wechat_api https://api2.weixin.qq.com")
			return
		}
	}
}
