package wechat_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

func TestValidateBaseURL(t *testing.T) {
	tests := []struct {
		url string
		ok  bool
	}{
		{"https://api.weixin.qq.com", true},
		{"https://api.weixin.qq.com/", true},
		{"https://api2.weixin.qq.com:8443/mirror", true},
		{"http://127.0.0.1:8080", true},
		{"http://[::1]:8080", true},
		{"http://localhost", true},
		{"http://api.weixin.qq.com", false},
		{"http://192.168.1.1", false},
		{"http://127.0.0.1.example.com", false},
		{"http://localhost.example.com", false},
		{"ftp://api.weixin.qq.com", false},
		{"//api.weixin.qq.com", false},
		{"api.weixin.qq.com", false},
		{"https:api.weixin.qq.com", false},
		{"https://", false},
		{"https://:443", false},
		{"", false},
		{"https://user:canary-password@api.weixin.qq.com", false},
		{"https://api.weixin.qq.com?secret=canary-password", false},
		{"https://api.weixin.qq.com?", false},
		{"https://api.weixin.qq.com#canary-password", false},
		{"https://api.weixin.qq.com/%2e%2e/x%2Fy", false},
		{"https://user:canary-password@api.weixin.qq.com:x/", false},
		{"https://api.weixin.qq.com\r\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			err := wechat.ValidateBaseURL(tt.url)
			if tt.ok {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			require.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestNewClientRefuses(t *testing.T) {
	one := wechat.MiniProgram{AppID: appID, Secret: secret}
	tests := []struct {
		name string
		cfg  wechat.Config
	}{
		{"a mini program without a secret", wechat.Config{MiniPrograms: []wechat.MiniProgram{{AppID: appID}}}},
		{"a mini program without an appid", wechat.Config{MiniPrograms: []wechat.MiniProgram{{Secret: secret}}}},
		{"a mini program twice", wechat.Config{MiniPrograms: []wechat.MiniProgram{one, one}}},
		{"a negative timeout", wechat.Config{Timeout: -time.Second}},
		{"a negative concurrency", wechat.Config{Concurrency: -1}},
		{"a plain address", wechat.Config{BaseURL: "http://api.weixin.qq.com"}},
		{"a proxy that is no URL", wechat.Config{ProxyURL: "http://user:canary-secret@[::1"}},
		{"a proxy of an unknown kind", wechat.Config{ProxyURL: "ftp://user:canary-secret@proxy"}},
		{"a proxy without a host", wechat.Config{ProxyURL: "http://"}},
		{"a proxy without a scheme", wechat.Config{ProxyURL: "proxy:3128"}},
		{"a proxy that would see the secret", wechat.Config{BaseURL: "http://127.0.0.1:1", ProxyURL: "http://proxy.example:3128"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := wechat.NewClient(tt.cfg)
			require.ErrorContains(t, err, "configuring the WeChat client: ")
			require.NotContains(t, err.Error(), "canary")
		})
	}
}
