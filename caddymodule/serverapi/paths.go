package serverapi

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// defaultAllow is what an application calls while it runs.
var defaultAllow = []string{
	"/wxa/business/getuserphonenumber",
	"/cgi-bin/message/subscribe/send",
	"/cgi-bin/message/custom/send",
	"/cgi-bin/message/custom/typing",
	"/cgi-bin/media/upload",
	"/cgi-bin/media/get",
	"/wxa/msg_sec_check",
	"/wxa/media_check_async",
	"/wxa/img_sec_check",
	"/wxa/getuserriskrank",
	"/wxa/getwxacode",
	"/wxa/getwxacodeunlimit",
	"/cgi-bin/wxaapp/createwxaqrcode",
	"/wxa/generatescheme",
	"/wxa/queryscheme",
	"/wxa/generate_urllink",
	"/wxa/query_urllink",
	"/wxa/genwxashortlink",
	"/wxa/getpaidunionid",
	"/wxa/sec/order/*",
	"/wxa/checksession",
	"/wxa/business/getuserencryptkey",
	"/xpay/query_user_balance",
	"/xpay/currency_pay",
	"/xpay/query_order",
	"/xpay/notify_provide_goods",
	"/wxaapi/newtmpl/gettemplate",
	"/cgi-bin/openapi/quota/get",
	"/cgi-bin/openapi/rid/get",
	"/cgi-bin/get_api_domain_ip",
}

// never are the APIs that take the AppSecret, or whose answer holds a session_key.
var never = []string{
	"/cgi-bin/clear_quota/v2", "/sns/*", "/cgi-bin/component/*", "/donut/*", "/wxa/resetusersessionkey",
}

// apiPath is the form of all of WeChat's paths. It has no dots, escapes or
// empty segments, so there are no two ways to read one.
var apiPath = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

// allowList returns the patterns of `allow`, which have been checked.
func allowList(words []string) ([]string, error) {
	if len(words) == 0 {
		words = []string{"default"}
	}
	var list []string
	for _, word := range words {
		if word == "default" {
			list = append(list, defaultAllow...)
			continue
		}
		if err := checkAllow(word); err != nil {
			return nil, err
		}
		list = append(list, word)
	}
	return list, nil
}

func checkAllow(pattern string) error {
	base := strings.TrimSuffix(pattern, "/*")
	switch {
	case base != "" && !apiPath.MatchString(base), pattern == "":
		return fmt.Errorf("%q is not a path such as /wxa/msg_sec_check, or /wxa/sec/order/* for all below one", pattern)
	case matchAny(never, pattern) != "":
		return fmt.Errorf("%s is never allowed: it takes the AppSecret, or its answer holds a session_key", pattern)
	case pattern == tokenPath || pattern == stableTokenPath || strings.HasPrefix(pattern, "/wxgate/"):
		return fmt.Errorf("%s is answered by wxgate_api itself", pattern)
	}
	return nil
}

// matchAny returns the pattern that matches, or "".
func matchAny(patterns []string, path string) string {
	i := slices.IndexFunc(patterns, func(pattern string) bool {
		if parent, below := strings.CutSuffix(pattern, "*"); below {
			return strings.HasPrefix(path, parent)
		}
		return path == pattern
	})
	if i < 0 {
		return ""
	}
	return patterns[i]
}

// allowed returns the pattern that allows a path.
func (h *Handler) allowed(u *url.URL) (string, error) {
	path := u.Path
	if strings.HasPrefix(path, "/_/") {
		return "", &refusal{status: http.StatusNotFound, errcode: codeNotFound, name: "not_found",
			text: "payment and storage of Cloud Hosting are not part of WeChat's server API"}
	}
	if !apiPath.MatchString(path) || u.EscapedPath() != path {
		return "", refuse(codeNotAllowed, "not_allowed", "the path is not one of WeChat's API")
	}
	if matchAny(never, path) != "" {
		return "", refuse(codeNotAllowed, "not_allowed", "never: "+path+" takes the AppSecret, or its answer holds a session_key")
	}
	pattern := matchAny(h.allow, path)
	if pattern == "" {
		return "", refuse(codeNotAllowed, "not_allowed", "the path is not allowed; to allow it, add to wxgate_api: allow default "+path)
	}
	return pattern, nil
}
