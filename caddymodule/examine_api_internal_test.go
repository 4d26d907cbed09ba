package caddymodule

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// An application from Cloud Hosting has WeChat's name mapped to the gateway;
// the gateway itself must not.
func TestExamineName(t *testing.T) {
	for _, tc := range []struct {
		host   string
		ip     string
		mapped bool
	}{
		{"api.weixin.qq.com", "43.141.11.22", false},
		{"api.weixin.qq.com", "127.0.0.1", true},
		{"api.weixin.qq.com", "10.1.2.3", true},
		{"api.weixin.qq.com", "::1", true},
		{"127.0.0.1", "127.0.0.1", false},
		{"localhost", "127.0.0.1", false},
	} {
		var f Findings
		examineName(&f, tc.host, []net.IP{net.ParseIP(tc.ip)})
		require.Equal(t, tc.mapped, len(f) == 1, "%s %s", tc.host, tc.ip)
		if tc.mapped {
			require.Contains(t, f[0].Message, tc.ip)
			require.Contains(t, f[0].Fix, "wechat_api https://api2.weixin.qq.com")
		}
	}
}
