package fakewechat

import (
	"fmt"
	"hash/crc32"
	"net/url"
)

// IssuePhoneCode returns a code for a user's phone number, as the button
// open-type="getPhoneNumber" does. It lives for five minutes and works once.
func (s *Server) IssuePhoneCode(appID, user string) string {
	text := randomText(64)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phoneCodes[text] = &code{account: account{appID, user}, expires: s.cfg.Now().Add(codeLife)}
	return text
}

// Phone returns the number of a user, which is always the same.
func (s *Server) Phone(user string) string {
	return fmt.Sprintf("138%08d", crc32.ChecksumIEEE([]byte(user))%100_000_000)
}

// phoneNumber answers with a countryCode that is a number, as WeChat's samples
// have it, though its table calls it a string.
func (s *Server) phoneNumber(appID string, call Call, _ url.Values) (string, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	openID := stringMember(call.Body, "openid")
	c := s.phoneCodes[stringMember(call.Body, "code")]
	switch {
	case c == nil || c.used || s.cfg.Now().After(c.expires):
		return s.refuse(40029, "invalid code")
	case c.appID != appID:
		return s.refuse(40013, "invalid appid")
	case openID != "" && openID != s.OpenID(appID, c.user):
		return s.refuse(40003, "invalid openid")
	}
	c.used = true
	return okay(object{"phone_info": object{
		"phoneNumber": s.Phone(c.user), "purePhoneNumber": s.Phone(c.user), "countryCode": 86,
		"watermark": object{"timestamp": s.cfg.Now().Unix(), "appid": appID},
	}})
}
