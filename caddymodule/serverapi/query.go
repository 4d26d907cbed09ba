package serverapi

import (
	"net/http"
	"net/url"
	"strings"
)

// A query is that of a call, without what is meant for wxgate_api.
type query struct {
	rest        string // as it came, without the two below
	accessToken string
	fromAppID   string
	values      url.Values // of rest
}

// splitQuery takes every access_token, cloudbase_access_token and from_appid
// out of a query, however they are escaped. The rest stays as it is.
func splitQuery(raw string) (query, error) {
	q := query{values: make(url.Values)}
	var rest []string
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(rawName)
		value, err2 := url.QueryUnescape(rawValue)
		if err1 != nil || err2 != nil || strings.ContainsAny(pair, "; \t\r\n") {
			return q, &refusal{status: http.StatusBadRequest, errcode: codeBadRequest, name: "bad_request", text: "the query is malformed"}
		}
		switch strings.ToLower(name) {
		case "access_token":
			if q.accessToken == "" {
				q.accessToken = value
			}
		case "from_appid":
			if q.fromAppID == "" {
				q.fromAppID = value
			}
		case "cloudbase_access_token":
		default:
			rest = append(rest, pair)
			q.values.Add(name, value)
		}
	}
	q.rest = strings.Join(rest, "&")
	return q, nil
}

// add appends a parameter, unless the caller gave it.
func (q *query) add(name, value string) {
	if q.values.Has(name) {
		return
	}
	if q.rest != "" {
		q.rest += "&"
	}
	q.rest += url.QueryEscape(name) + "=" + url.QueryEscape(value)
	q.values.Set(name, value)
}
