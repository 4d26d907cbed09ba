package wechat

import (
	"fmt"
	"net/netip"
	"strings"
)

// Cure returns what the operator can do about an Error, or "".
func (e *Error) Cure() string {
	switch e.Errcode {
	case errcodeIPNotAllowed:
		return fmt.Sprintf("add %s to the mini program's API IP 白名单 at mp.weixin.qq.com", addressIn(e.Errmsg))
	case errcodeInvalidSecret, errcodeBadCredential:
		return "configure the AppSecret that mp.weixin.qq.com shows; after a change there, the new one takes the place of the old one"
	case errcodeSecretFrozen:
		return "unfreeze the AppSecret at mp.weixin.qq.com; it takes effect after 10 minutes"
	case errcodeConfirmIP:
		return "the mini program's administrator must confirm this gateway's address; WeChat has sent him a message"
	}
	return ""
}

// addressIn returns the IP address in an errmsg such as "invalid ip 8.149.1.2
// ipv6 ::ffff:8.149.1.2, not in whitelist", or words for it.
func addressIn(errmsg string) string {
	for _, word := range strings.FieldsFunc(errmsg, func(r rune) bool { return r == ' ' || r == ',' }) {
		if addr, err := netip.ParseAddr(word); err == nil {
			return addr.String()
		}
	}
	return "this gateway's address"
}
