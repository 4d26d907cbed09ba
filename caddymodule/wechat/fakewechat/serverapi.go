package fakewechat

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
)

// jsonUTF8 is how WeChat labels the JSON of most APIs.
const jsonUTF8 = "application/json; encoding=utf-8"

// AccessToken returns the access_token of the call's query.
func (c Call) AccessToken() string {
	query, err := url.ParseQuery(c.Query)
	if err != nil {
		return ""
	}
	return query.Get("access_token")
}

// object is the JSON of an answer.
type object map[string]any

// An api answers a call whose access_token is good.
type api func(s *Server, appID string, call Call, query url.Values) (contentType string, body []byte)

// apis are those whose answers depend on the call. Others are answered ok.
var apis = map[string]api{
	"/wxa/business/getuserphonenumber": (*Server).phoneNumber,
	"/wxa/business/getuserencryptkey":  (*Server).encryptKey,
	"/wxa/checksession":                (*Server).checkSession,
	"/wxa/resetusersessionkey":         (*Server).resetSessionKey,
	"/wxa/msg_sec_check":               (*Server).checkMessage,
	"/wxa/getwxacodeunlimit":           (*Server).codeImage,
	"/cgi-bin/message/subscribe/send":  (*Server).sendSubscribed,
	"/cgi-bin/media/upload":            (*Server).upload,
	"/cgi-bin/openapi/quota/get":       (*Server).quota,
	"/xpay/query_user_balance":         (*Server).balance,
}

// callAPI serves every path of the server API.
func (s *Server) callAPI(w http.ResponseWriter, r *http.Request) {
	script, call := s.receive(r, Call{})
	s.play(w, r, script, func() (string, []byte) {
		appID, fault := s.tokenJudgment(call.AccessToken())
		if fault != nil {
			return jsonUTF8, encode(fault)
		}
		answer := apis[call.Path]
		if answer == nil {
			return okay(nil)
		}
		return answer(s, appID, call, r.URL.Query())
	})
}

// okay returns errcode 0 and more members.
func okay(more object) (string, []byte) {
	answer := object{"errcode": 0, "errmsg": "ok"}
	maps.Copy(answer, more)
	return jsonUTF8, encode(answer)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the answers are of strings and numbers
	}
	return b
}

func (s *Server) refuse(errcode int64, message string) (string, []byte) {
	return jsonUTF8, encode(s.fault(errcode, message))
}

// stringMember returns a member of a JSON object, or nothing.
func stringMember(body []byte, name string) string {
	var members map[string]any
	_ = json.Unmarshal(body, &members)
	value, _ := members[name].(string)
	return value
}

func (s *Server) checkMessage(_ string, call Call, _ url.Values) (string, []byte) {
	if stringMember(call.Body, "content") == "" {
		return s.refuse(44004, "empty content")
	}
	return okay(object{"result": object{"suggest": "pass", "label": 100}, "trace_id": randomText(24)})
}

func (s *Server) sendSubscribed(_ string, call Call, _ url.Values) (string, []byte) {
	switch {
	case stringMember(call.Body, "touser") == "":
		return s.refuse(40003, "invalid openid")
	case stringMember(call.Body, "template_id") == "":
		return s.refuse(40037, "invalid template_id")
	}
	return okay(object{"msgid": 1})
}

// upload answers how long the whole form was, and its hash.
func (s *Server) upload(_ string, call Call, query url.Values) (string, []byte) {
	if call.BodyBytes == 0 {
		return s.refuse(41005, "media data missing")
	}
	return jsonUTF8, encode(object{
		"type": query.Get("type"), "media_id": call.BodySHA256, "created_at": s.cfg.Now().Unix(), "size": call.BodyBytes,
	})
}

// codeImage answers an image of about 200 KB, as getwxacodeunlimit can be.
func (s *Server) codeImage(_ string, call Call, _ url.Values) (string, []byte) {
	if scene := stringMember(call.Body, "scene"); scene == "" || len(scene) > 32 {
		return s.refuse(40169, "invalid length for scene, or the data is not json string")
	}
	return "image/jpeg", CodeImage()
}

// CodeImage returns what getwxacodeunlimit answers; always the same bytes.
var CodeImage = sync.OnceValue(func() []byte {
	random := rand.New(rand.NewPCG(1, 2))
	img := image.NewNRGBA(image.Rect(0, 0, 320, 320))
	for y := range 320 {
		for x := range 320 {
			v := random.Uint32()
			img.Set(x, y, color.NRGBA{uint8(v), uint8(v >> 8), uint8(v >> 16), 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 100}); err != nil {
		panic(err)
	}
	return b.Bytes()
})

func (s *Server) quota(string, Call, url.Values) (string, []byte) {
	return okay(object{
		"quota":      object{"daily_limit": 500000, "used": 1, "remain": 499999},
		"rate_limit": object{"call_count": 10000, "refresh_second": 60},
	})
}

// signer returns the account whose session_key signed data, or a fault.
func (s *Server) signer(appID, openID, data string, query url.Values) (acc account, fault *reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for known := range s.sessionKeys {
		if known.appID == appID && s.OpenID(appID, known.user) == openID {
			acc = known
		}
	}
	switch key := s.sessionKeys[acc]; {
	case key == "":
		return acc, s.fault(40003, "invalid openid")
	case !hmac.Equal([]byte(hexHMAC(key, data)), []byte(query.Get("signature"))):
		return acc, s.fault(87009, "invalid signature")
	}
	return acc, nil
}

// stateProof judges a GET that is signed over nothing.
func (s *Server) stateProof(appID string, query url.Values) (account, *reply) {
	if query.Get("sig_method") != "hmac_sha256" {
		return account{}, s.fault(87008, "invalid sig_method")
	}
	return s.signer(appID, query.Get("openid"), "", query)
}

func (s *Server) checkSession(appID string, _ Call, query url.Values) (string, []byte) {
	if _, fault := s.stateProof(appID, query); fault != nil {
		return jsonUTF8, encode(fault)
	}
	return okay(nil)
}

func (s *Server) resetSessionKey(appID string, _ Call, query url.Values) (string, []byte) {
	acc, fault := s.stateProof(appID, query)
	if fault != nil {
		return jsonUTF8, encode(fault)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessionKeys[acc] = randomKey()
	return okay(object{"openid": query.Get("openid"), "session_key": s.sessionKeys[acc]})
}

func (s *Server) encryptKey(appID string, _ Call, query url.Values) (string, []byte) {
	if _, fault := s.stateProof(appID, query); fault != nil {
		return jsonUTF8, encode(fault)
	}
	return okay(object{"key_info_list": []object{{
		"encrypt_key": randomKey(), "iv": randomText(16),
		"version": 1, "expire_in": 3600, "create_time": s.cfg.Now().Unix(),
	}}})
}

// balance wants both signatures, over the body's bytes.
func (s *Server) balance(appID string, call Call, query url.Values) (string, []byte) {
	s.mu.Lock()
	key := s.appKeys[appID]
	s.mu.Unlock()
	paySig := hexHMAC(key, "/xpay/query_user_balance&"+string(call.Body))
	if !hmac.Equal([]byte(paySig), []byte(query.Get("pay_sig"))) {
		return s.refuse(90010, "invalid pay_sig")
	}
	if _, fault := s.signer(appID, stringMember(call.Body, "openid"), string(call.Body), query); fault != nil {
		return jsonUTF8, encode(fault)
	}
	return okay(object{"balance": 100, "present_balance": 0, "sum_save": 100})
}

func hexHMAC(key, data string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(data))
	return hex.EncodeToString(mac.Sum(nil))
}
