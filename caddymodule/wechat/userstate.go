package wechat

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// UserSignature returns the 用户登录态签名 of a POST's exact body, or of
// nothing for a GET. The key is the session_key's text, which is not decoded.
func UserSignature(sessionKey string, data []byte) string { return hexHMAC(sessionKey, data) }

// PaySignature returns the pay_sig (支付签名) of a call of virtual payment: uri
// is its path, or requestVirtualPayment, and data its exact body.
func PaySignature(appKey, uri string, data []byte) string {
	return hexHMAC(appKey, append([]byte(uri+"&"), data...))
}

func hexHMAC(key string, data []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil))
}
