package wechat_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// The vectors of WeChat's documents, computed again with openssl. The blanks count.
func TestSignatureVectors(t *testing.T) {
	const (
		key1    = "o0q0otL8aEzpcZL/FT9WsQ=="
		key2    = "9hAb/NEYUlkaMBEsmFgzig=="
		balance = `{"openid": "xxx", "user_ip": "127.0.0.1", "env": 0}`
		game    = `{"offer_id": "12345678", "openid": "oUrsfxxxxxxxxxx", "ts": 1668136271, "zone_id": "1", "env": 0}`
	)
	for _, tt := range []struct{ key, data, want string }{
		{key1, `{"foo":"bar"}`, "654571f79995b2ce1e149e53c0a33dc39c0a74090db514261454e8dbe432aa0b"},
		{key1, "", "46e043c5525c2d817c44be603d30837a808a1d930d038f6fdc3e62a201fed128"},
		{key2, balance, "089d9e8dc5d308977360c4b79ec600a93d736802802a807d634192328032f6c7"},
		{key2, game, "42fe1d3341fb1c8bd6f5014ba735ab04eacc80a2deb3ab4669eab4700b5b6729"},
	} {
		require.Equal(t, tt.want, wechat.UserSignature(tt.key, []byte(tt.data)))
	}
	require.Equal(t, "c37809f27c6d7fd1837ad2500a04512b66b34fd793a39a385fade56dca89a4b5",
		wechat.PaySignature("12345", "/xpay/query_user_balance", []byte(balance)))
	require.Equal(t, "11bac6388871d29c055c7d16fbe42e8d646855b666faf89b15c815218b1b23bd",
		wechat.PaySignature("12345", "/wxa/game/getbalance", []byte(game)))
}
